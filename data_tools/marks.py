"""Ascending positions in a stream of blocks: where documents or sentences begin, by number or by position.

Only the counts of the blocks are in memory: each query reads one block's memory-mapped array.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

Positions = np.ndarray[Any, np.dtype[np.int64]]


class Marks:
    """The marks of all blocks, numbered from 0 in the order of the stream."""

    def __init__(
        self, counts: Sequence[int], block_starts: Sequence[int], read: Callable[[int], Positions]
    ) -> None:
        """Index the marks of all blocks.

        Args:
            counts: marks in each block.
            block_starts: stream position of each block, and the end of the last one.
            read: the marks of a block by its number, relative to the block's start.
        """
        self._firsts = [0, *accumulate(counts)]
        self._block_starts = block_starts
        self._read = read

    def __len__(self) -> int:
        return self._firsts[-1]

    def at(self, number: int) -> int:
        """The position of a mark. Raises IndexError if there is none with that number."""
        if not 0 <= number < len(self):
            raise IndexError(f"mark {number} of {len(self)}")
        block = bisect_right(self._firsts, number) - 1
        return self._block_starts[block] + int(self._read(block)[number - self._firsts[block]])

    def before(self, position: int) -> int:
        """How many marks lie before a position; this is also the number of the first mark at or after it."""
        block = bisect_left(self._block_starts, min(position, self._block_starts[-1])) - 1
        if block < 0:
            return 0
        return self._firsts[block] + int(self._read(block).searchsorted(position - self._block_starts[block]))

    def between(self, start: int, stop: int) -> Positions:
        """Positions of the marks in [start, stop), shape [marks]."""
        block = max(bisect_right(self._block_starts, start) - 1, 0)
        parts = []
        while start < stop:
            first, marks = self._block_starts[block], self._read(block)
            low, high = marks.searchsorted((start - first, stop - first))
            parts.append(marks[low:high] + first)
            block += 1
            start = self._block_starts[block]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])
