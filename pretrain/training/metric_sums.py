"""Sums over micro-batches and ranks, from which every figure about losses is made.

Sums and counts add up exactly, whatever the layout; means are taken once, at the end.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import Self

from pretrain.config.sections import TextConfig

MARGIN = 1.05
"""An accuracy below this multiple of the baseline counts as being at the baseline."""


@dataclass(frozen=True)
class Baseline:
    """How many of some predictions were right, and how many a constant answer would have got right."""

    metric: str
    count: float
    right: float
    by_baseline: float
    cause: str
    """Why a model may not get beyond the baseline, and what to do about it."""

    @property
    def at_baseline(self) -> bool:
        """Whether the lead over the baseline may be chance: at most three standard deviations."""
        share = self.by_baseline / self.count
        # Standard deviation of a binomial count, three times.
        chance = 3 * math.sqrt(self.count * share * (1 - share))
        return self.right <= MARGIN * self.by_baseline + chance


@dataclass(frozen=True)
class MetricSums(ABC):
    """Sums of a step. A subclass's fields are in the order of its model spec's report vectors."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    @abstractmethod
    def loss(self) -> float:
        """The loss that is minimised, in nats."""

    @property
    def metrics(self) -> dict[str, float]:
        """Further metrics of a step for the journal, by name."""
        return {}

    @property
    def guesses(self) -> tuple[Baseline, ...]:
        """Predictions that can be compared with a baseline; empty where nothing was predicted."""
        return ()


SHORTEST, LONGEST = 100, 1000
"""Steps of the shortest and of the longest window; between them it is a tenth of the run."""


class Plateau:
    """Detects a run that does no better than guessing without looking, and says what the usual cause is.

    Sums are compared over a window of steps, because a single batch is too small for a verdict. The result is
    a hint in the log and changes nothing, so the sums need no place in checkpoints.
    """

    def __init__(self, config: TextConfig) -> None:
        self._window = min(LONGEST, max(SHORTEST, config.run.steps // 10))
        self._warmup = config.schedule.warmup_steps
        self._first = 0
        self._sum: MetricSums | None = None

    def after(self, step: int, totals: MetricSums) -> list[str]:
        """Add the sums of step `step`, counted from 0.

        Returns:
            A warning for each prediction that was at its baseline in the window that ends here.
        """
        # During warm-up every model is at its baseline.
        if step < self._warmup:
            return []
        if self._sum is None or step < self._first:  # a new window, or a rollback
            self._first, self._sum = step, totals
        else:
            self._sum += totals
        steps = step + 1 - self._first
        if steps < self._window:
            return []
        judged, self._sum = self._sum, None
        return [
            f"{guess.metric} was {guess.right / guess.count:.2%} in the last {steps} steps, and always the "
            f"same answer gets {guess.by_baseline / guess.count:.2%}: {guess.cause}"
            for guess in judged.guesses
            if guess.at_baseline
        ]
