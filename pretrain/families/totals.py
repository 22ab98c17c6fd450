"""Sums over micro-batches and ranks, from which every figure about losses is made.

Sums and counts add up exactly, whatever the layout; means are taken once, at the end.
"""

from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from typing import Self


@dataclass(frozen=True)
class Totals(ABC):
    """A subclass's fields are numbers to be summed, in the order of the vectors that its family reports."""

    def __add__(self, other: Self) -> Self:
        """The sums over both."""
        return type(self)(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    @abstractmethod
    def loss(self) -> float:
        """What is minimised, in nats."""

    @property
    def metrics(self) -> dict[str, float]:
        """What else the journal tells of a step, by name."""
        return {}
