"""Boxes and flat ranges of a logical tensor: what they cover, how they overlap, whether they tile it.

A rank's shard is a box of a logical tensor (tensor parallel), or a half-open range of the row-major elements
of such a box (distributed optimizer). Any range of a row-major box splits into at most 2 x ndim - 1 smaller
boxes that are each contiguous in memory. So the overlap of two shards from any parallel dims is a set of
plain box intersections, and one short routine reshards everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """A box in global coordinates whose elements lie row-major and contiguous in a shard's storage."""

    offset: Shape
    shape: Shape
    start: int
    """Element of the storage at which the box begins."""

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Extent:
    """What a shard covers of a logical tensor: a box, or a range of its row-major elements."""

    offset: Shape
    shape: Shape
    flat: tuple[int, int] | None = None

    @property
    def range(self) -> tuple[int, int]:
        """Half-open range of the box's row-major elements that is covered."""
        return (0, prod(self.shape)) if self.flat is None else self.flat

    @property
    def size(self) -> int:
        start, stop = self.range
        return stop - start

    def regions(self) -> list[Region]:
        """The extent as contiguous boxes, in the order of the storage."""
        start, stop = self.range
        return [
            Region(tuple(a + b for a, b in zip(self.offset, offset, strict=True)), shape, at - start)
            for offset, shape, at in _split(self.shape, start, stop)
        ]

    def describe(self) -> str:
        """Readable form, such as `[0:4, 8:16]` or `[0:4, 8:16] elements 10:20`."""
        box = ", ".join(f"{a}:{a + n}" for a, n in zip(self.offset, self.shape, strict=True))
        return f"[{box}]" + ("" if self.flat is None else f" elements {self.flat[0]}:{self.flat[1]}")

    def problem(self, whole: Shape) -> str | None:
        """Why this cannot be part of a tensor of shape `whole`, or None."""
        if not len(self.offset) == len(self.shape) == len(whole):
            box = f"offset {list(self.offset)}, shape {list(self.shape)}"
            return f"a box of {box} has other dimensions than the tensor, {list(whole)}"
        if any(a < 0 or n < 0 or a + n > w for a, n, w in zip(self.offset, self.shape, whole, strict=True)):
            return f"box {self.describe()} reaches beyond the tensor, {list(whole)}"
        start, stop = self.range
        if not 0 <= start <= stop <= prod(self.shape):
            return f"elements {start}:{stop} reach beyond the box {self.describe()}"
        return None


def _split(shape: Shape, start: int, stop: int) -> Iterator[tuple[Shape, Shape, int]]:
    """Split row-major elements [start, stop) of a box into (offset, shape, first element) of contiguous
    boxes."""
    if start >= stop:
        return
    if len(shape) < 2:
        yield ((start,), (stop - start,), start) if shape else ((), (), 0)
        return
    row = prod(shape[1:])
    (first, head), (last, tail) = divmod(start, row), divmod(stop, row)
    if first == last:
        yield from _inside_row(shape, first, head, tail)
        return
    if head:
        yield from _inside_row(shape, first, head, row)
        first += 1
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:]), first * row
    yield from _inside_row(shape, last, 0, tail)


def _inside_row(shape: Shape, row: int, start: int, stop: int) -> Iterator[tuple[Shape, Shape, int]]:
    base = row * prod(shape[1:])
    for offset, inner, at in _split(shape[1:], start, stop):
        yield (row, *offset), (1, *inner), base + at


def overlap(a: Region, b: Region) -> tuple[tuple[slice, ...], tuple[slice, ...], int] | None:
    """Slices of the common box within `a` and within `b`, and its size in elements; None if they do not
    overlap."""
    in_a, in_b, size = [], [], 1
    for a0, an, b0, bn in zip(a.offset, a.shape, b.offset, b.shape, strict=True):
        start, stop = max(a0, b0), min(a0 + an, b0 + bn)
        if start >= stop:
            return None
        in_a.append(slice(start - a0, stop - a0))
        in_b.append(slice(start - b0, stop - b0))
        size *= stop - start
    return tuple(in_a), tuple(in_b), size


def tiling_fault(whole: Shape, extents: Sequence[Extent]) -> str | None:
    """Why `extents` do not cover a tensor of shape `whole` exactly once, or None.

    The ranges of each distinct box must tile the box, and the boxes must tile the tensor.
    """
    for extent in extents:
        if problem := extent.problem(whole):
            return problem
    boxes: dict[tuple[Shape, Shape], list[tuple[int, int]]] = {}
    for extent in extents:
        boxes.setdefault((extent.offset, extent.shape), []).append(extent.range)
    for (offset, shape), ranges in boxes.items():
        if fault := _range_fault(ranges, prod(shape)):
            return f"box {Extent(offset, shape).describe()}: {fault}"
    regions = sorted((Region(offset, shape, 0) for offset, shape in boxes), key=lambda region: region.offset)
    for i, a in enumerate(regions):
        for b in regions[i + 1 :]:
            if a.offset and b.offset[0] >= a.offset[0] + a.shape[0]:
                break
            if overlap(a, b):
                first, second = Extent(a.offset, a.shape).describe(), Extent(b.offset, b.shape).describe()
                return f"boxes {first} and {second} overlap"
    covered = sum(region.size for region in regions)
    if covered != prod(whole):
        return f"{prod(whole) - covered} of {prod(whole)} elements are in no shard"
    return None


def _range_fault(ranges: list[tuple[int, int]], size: int) -> str | None:
    reached = 0
    for start, stop in sorted(ranges):
        if start > reached:
            return f"elements {reached}:{start} are in no shard"
        if start < reached:
            return f"elements {start}:{min(reached, stop)} are in two shards"
        reached = stop
    return None if reached == size else f"elements {reached}:{size} are in no shard"
