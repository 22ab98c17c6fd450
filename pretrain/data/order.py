"""Which sample is number i: the whole order of training as one pure function.

Global sample index -> blend -> (source, how often it was drawn before) -> (epoch of that source, position
in it) -> keyed permutation -> sample. Nothing is stored but the blend's pattern, so a loader's state is one
integer, the number of samples consumed, whatever the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.data.blend import Blend, make_blend
from pretrain.data.permutation import permutation_key, permute


@dataclass(frozen=True)
class SampleOrder:
    """The order of samples under one seed; `sizes[k]` is the number of samples in an epoch of source k."""

    seed: int
    sizes: tuple[int, ...]
    blend: Blend

    def locate(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(source, sample within the source) of each global sample index >= 0; both int64, shaped alike."""
        sources, draws = self.blend.locate(samples)
        found = np.empty_like(draws)
        for source in np.unique(sources):
            mine = np.flatnonzero(sources == source)
            epochs, positions = np.divmod(draws[mine], self.sizes[source])
            for epoch in np.unique(epochs):
                now = epochs == epoch
                key = permutation_key(self.seed, int(source), int(epoch))
                found[mine[now]] = permute(key, self.sizes[source], positions[now])
        return sources, found


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
