"""Metrics of a journal as arrays: a value takes twelve bytes, so a run of millions of steps can be drawn."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from pretrain.tracking.journal import Entry

Points = npt.NDArray[np.float64]
"""[points, 2]: where on the axis, and the value."""


class Curves:
    """The metrics of some names, as they follow one another in a journal."""

    def __init__(self, entries: Iterable[Entry], wanted: Callable[[str], bool]) -> None:
        """Go through the lines once; `step` is always wanted."""
        self._lines: defaultdict[str, array[int]] = defaultdict(lambda: array("I"))
        self._values: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        for number, entry in enumerate(entries):
            for name, value in entry.items():
                if (name == "step" or wanted(name)) and isinstance(value, int | float):
                    self._lines[name].append(number)
                    self._values[name].append(value)

    @property
    def names(self) -> frozenset[str]:
        """Of the metrics that occur, `step` among them."""
        return frozenset(self._values)

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """In order, [lines that have it]; empty for one that does not occur."""
        return np.array(self._values[name]) if name in self._values else np.empty(0)

    def last(self, name: str) -> float | None:
        """None for one that does not occur."""
        return self._values[name][-1] if name in self._values else None

    def over(self, name: str, across: str = "step") -> Points:
        """The finite values of a metric over another one, where a line has both."""
        if name not in self._values or across not in self._values:
            return np.empty((0, 2))
        _, mine, other = np.intersect1d(
            self._lines[name], self._lines[across], assume_unique=True, return_indices=True
        )
        points = np.column_stack([self.values(across)[other], self.values(name)[mine]])
        return points[np.isfinite(points[:, 1])]
