"""Any layout to any other: pieces of random grids and ranges tile, meet and copy as numpy says they
should."""

import itertools
from math import prod

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.checkpoint.checkpoint import copy_overlap
from pretrain.checkpoint.geometry import Extent, tiling_fault


@st.composite
def cuts(draw: st.DrawFn, size: int, most: int = 3) -> list[int]:
    """Sorted bounds of up to `most` parts of [0, size); parts may be empty only if size is 0."""
    inner = draw(st.lists(st.integers(1, size - 1), max_size=most - 1, unique=True)) if size > 1 else []
    return [0, *sorted(inner), size]


@st.composite
def layouts(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Extent]:
    """A grid of boxes (tensor parallel in any dimension), some of them split into ranges (distributed
    optimizer)."""
    boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for size in shape:
        bounds = draw(cuts(size))
        parts = list(itertools.pairwise(bounds))
        boxes = [((*o, a), (*s, b - a)) for o, s in boxes for a, b in parts]
    extents = []
    for offset, box in boxes:
        if draw(st.booleans()):
            bounds = draw(cuts(prod(box), 4))
            extents += [Extent(offset, box, (a, b)) for a, b in itertools.pairwise(bounds) if a < b]
        else:
            extents.append(Extent(offset, box))
    return extents


shapes = st.lists(st.integers(1, 6), max_size=4).map(tuple)
two_layouts = shapes.flatmap(lambda shape: st.tuples(st.just(shape), layouts(shape), layouts(shape)))


def cut_out(whole: torch.Tensor, extent: Extent) -> torch.Tensor:
    """The plain definition of an extent, by numpy-style indexing."""
    box = whole[tuple(slice(o, o + n) for o, n in zip(extent.offset, extent.shape, strict=True))]
    if extent.flat is None:
        return box.clone()
    return box.reshape(-1)[slice(*extent.flat)].clone()


@settings(max_examples=200, deadline=None)
@given(two_layouts)
def test_one_layout_copies_into_another(case: tuple[tuple[int, ...], list[Extent], list[Extent]]) -> None:
    shape, written, wanted = case
    whole = torch.arange(prod(shape)).view(shape)
    assert tiling_fault(shape, written) is None
    sources = [(extent, cut_out(whole, extent)) for extent in written]
    for extent in wanted:
        target = torch.full_like(cut_out(whole, extent), -1)
        copied = sum(copy_overlap(source, of, target, extent) for of, source in sources)
        assert copied == extent.size
        assert torch.equal(target, cut_out(whole, extent))


@settings(max_examples=200, deadline=None)
@given(two_layouts, st.data())
def test_a_missing_or_doubled_piece_is_found(
    case: tuple[tuple[int, ...], list[Extent], list[Extent]], data: st.DataObject
) -> None:
    shape, extents, _ = case
    one = data.draw(st.sampled_from(extents))
    rest = [extent for extent in extents if extent is not one]
    assert "in no shard" in (tiling_fault(shape, rest) or "")
    assert tiling_fault(shape, [*extents, one]) is not None


@settings(max_examples=200, deadline=None)
@given(shapes, st.data())
def test_a_range_splits_into_few_contiguous_boxes(shape: tuple[int, ...], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, prod(shape)))
    stop = data.draw(st.integers(start, prod(shape)))
    regions = Extent(tuple(0 for _ in shape), shape, (start, stop)).regions()
    assert len(regions) <= max(1, 2 * len(shape) - 1)
    numbers = np.arange(prod(shape)).reshape(shape)
    seen = [
        numbers[tuple(slice(o, o + n) for o, n in zip(r.offset, r.shape, strict=True))].reshape(-1)
        for r in regions
    ]
    assert np.concatenate([*seen, np.empty(0, int)]).tolist() == list(range(start, stop))


def test_overlapping_boxes_of_the_right_volume_are_found() -> None:
    extents = [Extent((0, 0), (2, 4)), Extent((1, 0), (1, 4)), Extent((3, 0), (1, 4))]
    assert "overlap" in (tiling_fault((4, 4), extents) or "")


def test_a_box_beyond_the_tensor_is_named() -> None:
    fault = tiling_fault((4, 4), [Extent((2, 0), (3, 4))])
    assert fault == "box [2:5, 0:4] reaches beyond the tensor, [4, 4]"


def test_a_strided_target_is_filled_in_place() -> None:
    whole = torch.arange(24).view(4, 6)
    target = torch.zeros(6, 4, dtype=torch.int64).t()
    parts = [Extent((0, 0), (4, 6), (0, 7)), Extent((0, 0), (4, 6), (7, 24))]
    for part in parts:
        copy_overlap(cut_out(whole, part), part, target, Extent((0, 0), (4, 6)))
    assert torch.equal(target, whole)
