"""Windows over a token range that score each label exactly once.

A range of n tokens has n - 1 labels: every token but the first, which nothing precedes. Windows are `length`
labels long. The first scores all of its labels; each later one begins `stride` further on and scores only its
last `stride` labels, the others being context. With stride = length the windows do not overlap. The last
window may be partial. Every label is scored with at least length - stride + 1 tokens of context, or with all
that there are.
"""

from dataclasses import dataclass

from pretrain.errors import UserError


@dataclass(frozen=True)
class Window:
    """Inputs [start, stop - 1) and labels [start + 1, stop) of the stream; labels count from `score_from`."""

    start: int
    stop: int
    score_from: int


@dataclass(frozen=True)
class Windows:
    """The windows of the tokens [start, stop) of a stream, by index: O(1) memory.

    length: labels in a window. stride: labels that each window but the first scores.
    """

    start: int
    stop: int
    length: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.length:
            raise UserError(
                f"stride {self.stride} must be from 1 to the sequence length {self.length}: a longer one "
                "would skip labels"
            )

    def __len__(self) -> int:
        beyond_first = max(0, self.stop - self.start - 1 - self.length)
        return -(-beyond_first // self.stride) + (self.stop - self.start > 1)

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = self.start + index * self.stride
        score_from = start + 1 + (self.length - self.stride if index else 0)
        return Window(start, min(start + self.length + 1, self.stop), score_from)

    @property
    def scored(self) -> tuple[int, int]:
        """The labels that count, as one half-open range of the stream."""
        return self.start + 1, max(self.stop, self.start + 1)
