"""Which source sample i comes from, when several are blended by weight.

The weights are exact rationals with a common denominator D, and the sequence of sources is a pattern of D
entries that repeats. In it, after any number n of samples, source k has been drawn more than n w_k - 1 and
less than n w_k + 1 times: the actual mix never differs from the requested one by a whole sample.

Such a pattern exists for any weights (Tijdeman 1980, "The chairman assignment problem"). The bound says that
draw j = 0, 1, ... of source k must fall into the slots floor(j / w_k) .. ceil((j + 1) / w_k) - 1. So each
draw is a unit job with a release time and a deadline on one machine, and taking the released job with the
earliest deadline finds a schedule whenever there is one.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pretrain.errors import UserError

MAX_PERIOD = 100_000


@dataclass(frozen=True)
class Blend:
    """A periodic pattern of sources.

    pattern: int32 [D], the source of each slot. ordinal: int32 [D], how often that source came before in
    the pattern. counts: int64 [K], how often each source occurs in it.
    """

    pattern: npt.NDArray[np.int32]
    ordinal: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]

    @property
    def period(self) -> int:
        """The number of samples after which the pattern repeats, D."""
        return len(self.pattern)

    def locate(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(source, draw) of each global sample index: draw j is the number of samples of that source before
        it."""
        turn, slot = np.divmod(samples, self.period)
        source = self.pattern[slot].astype(np.int64)
        return source, turn * self.counts[source] + self.ordinal[slot]


def make_blend(weights: Sequence[float | Fraction]) -> Blend:
    """The blend of sources with these relative weights (positive; taken as the decimals they are written as).

    Raises UserError, with the nearest usable weights, when the period would exceed MAX_PERIOD.
    """
    shares = exact_shares(weights)
    period = math.lcm(*(share.denominator for share in shares))
    if period > MAX_PERIOD:
        asked = ", ".join(str(weight) for weight in weights)
        nearest = ", ".join(f"{float(share):.5g}" for share in _nearest_shares(shares))
        raise UserError(
            f"the weights {asked} have no common denominator up to {MAX_PERIOD:,} (theirs is {period:,}); "
            f"the nearest usable ones are {nearest}",
            "data.train",
        )
    pattern, ordinal = _schedule([int(share * period) for share in shares], period)
    return Blend(pattern, ordinal, np.bincount(pattern, minlength=len(shares)).astype(np.int64))


def exact_shares(weights: Sequence[float | Fraction]) -> list[Fraction]:
    """Weights as exact fractions of their sum: 0.1 is a tenth, not its nearest binary number."""
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(f"a weight must be positive and finite, not {weight}", "data.train")
    exact = [weight if isinstance(weight, Fraction) else Fraction(str(float(weight))) for weight in weights]
    total = sum(exact)
    return [weight / total for weight in exact]


def _nearest_shares(shares: Sequence[Fraction]) -> list[Fraction]:
    """Shares in units of 1 / MAX_PERIOD, at least one unit each, that sum to 1 (largest remainders)."""
    units = [max(1, math.floor(share * MAX_PERIOD)) for share in shares]
    while (missing := MAX_PERIOD - sum(units)) != 0:
        step = 1 if missing > 0 else -1
        errors = [step * (share * MAX_PERIOD - unit) for share, unit in zip(shares, units, strict=True)]
        movable = [k for k, unit in enumerate(units) if unit + step >= 1]
        units[max(movable, key=errors.__getitem__)] += step
    return [Fraction(unit, MAX_PERIOD) for unit in units]


def _schedule(counts: Sequence[int], period: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Pattern and ordinals of one period, earliest deadline first; source k has share counts[k] / period."""
    pattern = np.empty(period, dtype=np.int32)
    ordinal = np.empty(period, dtype=np.int32)
    # A source offers one draw at a time: its next one has a later deadline, so it would not be taken earlier.
    waiting = [(0, source, 0) for source in range(len(counts))]  # (release, source, draw)
    ready: list[tuple[int, int, int]] = []  # (deadline, source, draw)
    heapq.heapify(waiting)
    for slot in range(period):
        while waiting and waiting[0][0] <= slot:
            _, source, draw = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(draw + 1) * period // counts[source]), source, draw))
        deadline, source, draw = heapq.heappop(ready)
        assert slot < deadline, "Tijdeman's theorem promises a schedule"
        pattern[slot], ordinal[slot] = source, draw
        heapq.heappush(waiting, ((draw + 1) * period // counts[source], source, draw + 1))
    return pattern, ordinal
