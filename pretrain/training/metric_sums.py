"""Sums over micro-batches and ranks, from which every figure about losses is made.

Sums and counts add up exactly, whatever the layout; means are taken once, at the end.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import Self

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
