"""Whether a loss is a spike, and which samples a run has skipped because of one.

Everything here is a pure function of the losses so far and is stored in each checkpoint, so that a resumed
run judges as the uninterrupted one would have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from pydantic import FiniteFloat

from data_tools.typed import Natural, typed

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation x this = standard deviation, for normally distributed numbers."""

SMALLEST_SPREAD = 1e-3
"""Smallest spread, as a share of the median: on a flat curve every wiggle would be a spike."""


def spike_limit(losses: Sequence[float], threshold: float) -> float:
    """The loss above which the next one is a spike: median + threshold x spread.

    The spread is the scaled median absolute deviation (Rousseeuw & Croux 1993, "Alternatives to the Median
    Absolute Deviation", section 1), which is robust to earlier spikes and a falling curve.
    """
    middle = median(losses)
    spread = MAD_TO_SIGMA * median(abs(loss - middle) for loss in losses)
    return middle + threshold * max(spread, SMALLEST_SPREAD * abs(middle))


@dataclass(frozen=True)
class SkippedRange:
    """Samples that a run skipped when it went back to `step` steps done."""

    step: Natural
    first: Natural
    stop: Natural
    """Global sample indices [first, stop)."""
    order: Natural = 0
    """The order of samples that they belong to (`Stage.order`)."""


@dataclass(frozen=True)
class SpikeHistory:
    """What verdicts on the next step depend on, besides weights and step."""

    losses: tuple[FiniteFloat, ...] = ()
    """Last finite losses, oldest first."""
    skips_in_a_row: Natural = 0
    """Updates skipped in a row because of numbers that were not finite."""
    skipped: tuple[SkippedRange, ...] = ()
    """What the run has skipped; ranges of one order do not overlap."""
    rollbacks: Natural = 0
    """Rollbacks in the whole run."""
    returned_to: Natural = 0
    """Step that the run last went back to because later checkpoints were saved while updates were skipped."""
    returns: Natural = 0
    """How often in a row it went back to that step."""

    def after(self, loss: float, *, updated: bool, window: int) -> "SpikeHistory":
        """The history after a step with this loss; the last `window` losses are kept."""
        losses = (*self.losses, loss)[-window:] if math.isfinite(loss) and window else self.losses
        return replace(self, losses=losses, skips_in_a_row=0 if updated else self.skips_in_a_row + 1)

    def without_losses(self) -> "SpikeHistory":
        """The history without losses, for when later losses are not comparable with earlier ones."""
        return replace(self, losses=())

    def jumped(self, step: int, order: int = 0) -> int:
        """Number of samples of an order that were skipped before step `step`, counted from 0."""
        return sum(
            each.stop - each.first for each in self.skipped if each.order == order and each.step <= step
        )

    def back_to(
        self, step: int, spike: int, since: Mapping[int, range], then: "SpikeHistory"
    ) -> "SpikeHistory":
        """The history once a run is back at `step` steps done because step `spike` (from 0) had a spike.

        Samples that were trained on since, including the spike's, are not used again: the weights that gave
        the spike were made from them (as in Chowdhery et al. 2022, "PaLM", section 5.1).

        Args:
            since: positions of the samples of steps `step` to `spike` in each order that these draw from, in
                a run without skips.
            then: the history at `step`, from its checkpoint.
        """
        # A range skipped after `step` lies within the new range of its order, if there is one.
        kept = tuple(each for each in self.skipped if each.step <= step or each.order not in since)
        before = replace(self, skipped=kept)
        new = tuple(
            SkippedRange(
                step, seen.start + before.jumped(step, order), seen.stop + self.jumped(spike, order), order
            )
            for order, seen in since.items()
        )
        return replace(then, skipped=kept + new, rollbacks=self.rollbacks + 1)

    def suspect_since(self, step: int) -> int | None:
        """The step, counted from 1, since which all updates up to `step` were skipped; None if none was."""
        return step - self.skips_in_a_row + 1 if self.skips_in_a_row else None

    def returned(self, step: int, later: "SpikeHistory") -> "SpikeHistory":
        """This history, of a checkpoint of `step` steps, once a run goes back to it from a later one.

        Samples that the run had decided to skip are still skipped.
        """
        times = later.returns + 1 if later.returns and later.returned_to == step else 1
        return replace(
            self, skipped=later.skipped, rollbacks=later.rollbacks, returned_to=step, returns=times
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's state; the order of a range is omitted if it is the first."""
        ranges = [{key: n for key, n in asdict(each).items() if key != "order" or n} for each in self.skipped]
        return asdict(self) | {"skipped": ranges}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "SpikeHistory":
        """The inverse of `to_json`; raises ValueError for anything else."""
        history = typed(cls, tree)
        for order in {each.order for each in history.skipped}:
            ranges = sorted((each.first, each.stop) for each in history.skipped if each.order == order)
            ends = [bound for each in ranges for bound in each]
            if ends != sorted(ends):
                raise ValueError("skipped: ranges of samples that overlap, or end before they begin")
        return history
