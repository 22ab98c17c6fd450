"""Which sample is number i: the whole order of training as one pure function.

Global sample index -> blend -> (source, how often it was drawn before) -> (epoch of that source, position
in it) -> keyed permutation -> sample. Nothing is stored but the blend's pattern, so a loader's state is one
integer, the number of samples consumed, whatever the number of ranks. (Chunks of the permutation are kept
for speed; they change no answer.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pretrain.data.blend import Blend, make_blend
from pretrain.data.permutation import Indices, permutation_key, permute

CHUNK = 2048
"""Positions that are permuted together: training asks for them in turn, and a few cost as much as many."""


@dataclass(frozen=True)
class SampleOrder:
    """The order of samples under one seed; `sizes[k]` is the number of samples in an epoch of source k."""

    seed: int
    sizes: tuple[int, ...]
    blend: Blend
    _chunks: "_Chunks" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chunks", _Chunks(self.seed, self.sizes))

    def locate(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(source, sample within the source) of each global sample index >= 0; both int64, shaped alike."""
        sources, draws = self.blend.locate(samples)
        found = [self._chunks.find(*draw) for draw in zip(sources.tolist(), draws.tolist(), strict=True)]
        return sources, np.array(found, dtype=np.int64)


class _Chunks:
    """The permutations of all sources and epochs; remembers the last few chunks that were computed."""

    def __init__(self, seed: int, sizes: Sequence[int]) -> None:
        self._seed, self._sizes = seed, sizes
        self._chunk = lru_cache(maxsize=2 * len(sizes) + 2)(self._compute)

    def find(self, source: int, draw: int) -> int:
        """The sample of a source that is its draw number `draw`."""
        epoch, position = divmod(draw, self._sizes[source])
        return int(self._chunk(source, epoch, position // CHUNK)[position % CHUNK])

    def _compute(self, source: int, epoch: int, chunk: int) -> Indices:
        size = self._sizes[source]
        positions = np.arange(chunk * CHUNK, min(size, (chunk + 1) * CHUNK))
        return permute(permutation_key(self._seed, source, epoch), size, positions)


def make_order(seed: int, sizes: Sequence[int], weights: Sequence[float]) -> SampleOrder:
    """The order of samples from sources of these sizes (samples) and relative weights."""
    return SampleOrder(seed, tuple(sizes), make_blend(weights))


def micro_batch_samples(
    *, step: int, micro_batch: int, rank: int, size: int, global_size: int, micro_size: int
) -> range:
    """Global sample indices of one micro-batch of data-parallel rank `rank` of `size`.

    Step t covers [t G, (t + 1) G), whatever the number of ranks, which take micro_size samples in turn.
    Raises ValueError when the micro-batch is not part of the step.
    """
    per_micro_batch = size * micro_size
    if global_size % per_micro_batch or not 0 <= micro_batch < global_size // per_micro_batch:
        raise ValueError(
            f"a global batch of {global_size} has no micro-batch {micro_batch} of {micro_size} samples "
            f"on {size} data-parallel ranks"
        )
    start = step * global_size + micro_batch * per_micro_batch + rank * micro_size
    return range(start, start + micro_size)
