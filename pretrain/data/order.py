"""The whole order of training as one pure function: which sample is number i.

Global sample index -> blend -> (source, how often it was drawn before) -> (epoch of that source, position in
it) -> keyed permutation -> sample. Nothing is stored but the blend's pattern, so a loader's state is one
integer, the number of samples consumed, for any number of ranks. (Two chunks of results are cached for speed;
they do not affect the order.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from pretrain.data.blend import Blend, make_blend
from pretrain.data.permutation import Indices, permutation_key, permute

CHUNK = 8192
"""Samples to locate together: training requests consecutive ones, and a few cost as much as many."""


@dataclass(frozen=True)
class SampleOrder:
    """The order of samples under one seed; `sizes[k]` is the number of samples in an epoch of source k."""

    seed: int
    sizes: tuple[int, ...]
    blend: Blend
    _chunk: Callable[[int], tuple[Indices, Indices]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chunk", lru_cache(maxsize=2)(self._locate_chunk))

    @property
    def chunk(self) -> int:
        """Number of samples that are located together; at most one epoch, since small sources have many
        epochs."""
        return min(CHUNK, sum(self.sizes))

    def locate(self, samples: Indices) -> tuple[Indices, Indices]:
        """(source, sample within the source) of each global sample index >= 0; both int64, [samples]."""
        chunks = samples // self.chunk
        if not len(samples) or (chunks != chunks[0]).any():
            return self._locate(samples)
        sources, found = self._chunk(int(chunks[0]))
        within = samples % self.chunk
        return sources[within], found[within]

    def _locate_chunk(self, chunk: int) -> tuple[Indices, Indices]:
        return self._locate(np.arange(chunk * self.chunk, (chunk + 1) * self.chunk))

    def _locate(self, samples: Indices) -> tuple[Indices, Indices]:
        sources, draws = self.blend.locate(samples)
        found = np.empty_like(draws)
        for source in np.unique(sources).tolist():
            epochs, positions = np.divmod(draws, self.sizes[source])
            mine = sources == source
            for epoch in np.unique(epochs[mine]).tolist():
                here = mine & (epochs == epoch)
                key = permutation_key(self.seed, source, epoch)
                found[here] = permute(key, self.sizes[source], positions[here])
        return sources, found


def make_order(seed: int, sizes: Sequence[int], weights: Sequence[float]) -> SampleOrder:
    """The order of samples from sources of these sizes (samples) and relative weights."""
    return SampleOrder(seed, tuple(sizes), make_blend(weights))


class InSteps:
    """Samples that are requested in micro-batches of a step."""

    global_size: int
    micro_size: int

    def ids(self, step: int, micro_batch: int, rank: int, size: int, skipped: int = 0) -> range:
        """Global sample indices of a micro-batch: see `micro_batch_samples`."""
        return micro_batch_samples(
            step, micro_batch, rank, size, self.global_size, self.micro_size, skipped=skipped
        )


def micro_batch_samples(
    step: int,
    micro_batch: int,
    rank: int,
    size: int,
    global_size: int,
    micro_size: int,
    skipped: int = 0,
) -> range:
    """Global sample indices of one micro-batch of data-parallel rank `rank` of `size`.

    Step t covers [t G, (t + 1) G) after the first `skipped` samples, for any number of ranks, which take
    turns at micro_size samples. Raises ValueError when the micro-batch is not part of the step.
    """
    per_micro_batch = size * micro_size
    if global_size % per_micro_batch or not 0 <= micro_batch < global_size // per_micro_batch:
        raise ValueError(
            f"a global batch of {global_size} has no micro-batch {micro_batch} of {micro_size} samples "
            f"on {size} data-parallel ranks"
        )
    start = skipped + step * global_size + micro_batch * per_micro_batch + rank * micro_size
    return range(start, start + micro_size)
