"""Metrics of a journal as arrays: a value takes twelve bytes, so that a run of millions of steps can be
drawn."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pretrain.tracking.journal import Entry

Points = npt.NDArray[np.float64]
"""[points, 2]: position on the axis, and the value."""


class Curves:
    """The values of some metrics, in the order of a journal."""

    def __init__(self, entries: Iterable[Entry], wanted: Callable[[str], bool]) -> None:
        """Read the lines once; `step` is always included."""
        self._lines: defaultdict[str, array[int]] = defaultdict(lambda: array("I"))
        self._values: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        for number, entry in enumerate(entries):
            for name, value in entry.items():
                if (name == "step" or wanted(name)) and isinstance(value, int | float):
                    self._lines[name].append(number)
                    self._values[name].append(value)

    @property
    def names(self) -> frozenset[str]:
        """Names of the metrics that occur, including `step`."""
        return frozenset(self._values)

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """The values in order, [lines that have it]; empty for a metric that does not occur."""
        return np.array(self._values[name]) if name in self._values else np.empty(0)

    def last(self, name: str) -> float | None:
        """The last value; None for a metric that does not occur."""
        return self._values[name][-1] if name in self._values else None

    def over(self, name: str, across: str = "step") -> Points:
        """The finite values of a metric over another one, from the lines that have both."""
        if name not in self._values or across not in self._values:
            return np.empty((0, 2))
        _, mine, other = np.intersect1d(
            self._lines[name], self._lines[across], assume_unique=True, return_indices=True
        )
        points = np.column_stack([self.values(across)[other], self.values(name)[mine]])
        return points[np.isfinite(points[:, 1])]
