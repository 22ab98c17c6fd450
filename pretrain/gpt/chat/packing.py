"""Packing: which conversations share a sequence."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(sizes: Sequence[int], capacity: int) -> list[tuple[int, ...]]:
    """Put all items into as few bins as best-fit decreasing needs (Johnson 1974).

    The largest item comes first, and each goes into the bin that it fills best.

    Args:
        sizes: of the items, at most `capacity` each.
        capacity: of a bin.

    Returns:
        Items of each bin, in order; bins in the order of their first items.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    """(room, bin), sorted; a full bin is not in it."""
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        place = bisect_left(free, (sizes[item], -1))
        if place < len(free):
            room, number = free.pop(place)
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(item)
        if room > sizes[item]:
            insort(free, (room - sizes[item], number))
    return sorted(tuple(sorted(found)) for found in bins)
