"""Sums over micro-batches and ranks, from which every figure about losses is made.

Sums and counts add up exactly, whatever the layout; means are taken once, at the end.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import Self

MARGIN = 1.05
"""Accuracies below this many times the baseline are at it."""


@dataclass(frozen=True)
class Baseline:
    """How many of some predictions were right, and how many one constant answer would have got right."""

    metric: str
    count: float
    right: float
    by_baseline: float
    cause: str
    """Why a model may not get beyond the baseline, and what to do about it."""

    @property
    def at_baseline(self) -> bool:
        """Whether what lies above the baseline may be chance: three standard deviations."""
        share = self.by_baseline / self.count
        chance = 3 * math.sqrt(self.count * share * (1 - share))
        return self.right <= MARGIN * self.by_baseline + chance


@dataclass(frozen=True)
class MetricSums(ABC):
    """A subclass's fields are numbers to be summed, in the order of the vectors that its family reports."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    @abstractmethod
    def loss(self) -> float:
        """What is minimised, in nats."""

    @property
    def metrics(self) -> dict[str, float]:
        """What else the journal tells of a step, by name."""
        return {}

    @property
    def guesses(self) -> tuple[Baseline, ...]:
        """What can be compared with guessing; only what there are predictions of."""
        return ()
