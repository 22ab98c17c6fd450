"""Training samples as they are stored, gathered from memory-mapped shards many at a time.

The positions of samples are computed for a chunk of them at once, and those of one shard are copied by one
call. So a batch costs little more than the memory that it moves, and a sample well under a microsecond.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from pretrain.data.order import SampleOrder
from pretrain.data.permutation import Indices
from pretrain.data.sources import TokenRange

SPLIT = -1
"""In place of a shard's number: a sample that is not contiguous, because it spans the end of a block."""
GATHERED = 4
"""Samples per shard, on average, from which on gathering is faster than reading one by one."""


class StoredSamples:
    """The samples of all sources by their global indices. Caching changes no result."""

    def __init__(self, sources: Sequence[TokenRange], order: SampleOrder, sequence_length: int) -> None:
        """Set up from the indices of the shards alone; no data is read.

        Args:
            order: which sample has which index.
            sequence_length: S, tokens from one sample of a source to the next; a sample has one more.
        """
        self._sources, self._order, self._step = sources, order, sequence_length
        indices = [source.reader.index for source in sources]
        self._dtype = np.result_type(*(index.dtype for index in indices))
        self._shards = [
            (number, shard) for number, index in enumerate(indices) for shard in range(len(index.shards))
        ]
        blocks = [
            (number, block)
            for number, (source, shard) in enumerate(self._shards)
            for block in indices[source].shards[shard].blocks
        ]
        # All sources, one after the other, as one stream.
        stream = [0, *accumulate(block.tokens for _, block in blocks)]
        self._starts, self._ends = np.array(stream[:-1], np.int64), np.array(stream[1:], np.int64)
        self._shards_of = np.array([number for number, _ in blocks], np.int64)
        self._offsets = np.array([block.tokens_offset for _, block in blocks], np.int64)
        self._bases = np.array([0, *accumulate(index.tokens for index in indices)][:-1], np.int64)
        self._firsts = np.array([source.start for source in sources], np.int64)
        self._item_sizes = np.array([index.item_size for index in indices], np.int64)
        self._chunk = lru_cache(maxsize=2)(self._locate_chunk)

    def read(self, sample_ids: Sequence[int]) -> npt.NDArray[np.integer]:
        """The samples with these global indices, [samples, S + 1], as stored."""
        sources, starts, shards, places = self._find(sample_ids)
        numbers = shards.tolist()
        together = set(numbers)
        if len(together) == 1 and SPLIT not in together:
            return self._gather(numbers[0], places)
        together.discard(SPLIT)
        if len(together) * GATHERED > len(numbers):
            together.clear()
        out = np.empty((len(numbers), self._step + 1), self._dtype)
        for number in together:
            mine = shards == number
            out[mine] = self._gather(number, places[mine])
        for row, number in enumerate(numbers):
            if number not in together:
                start = int(starts[row])
                out[row] = self._sources[sources[row]].reader.read(start, start + self._step + 1)
        return out

    def _gather(self, number: int, places: Indices) -> npt.NDArray[np.integer]:
        source, shard = self._shards[number]
        return self._sources[source].reader.gather(shard, places, self._step + 1)

    def _find(self, sample_ids: Sequence[int]) -> Indices:
        """As `_locate`, from a cached chunk if the samples are consecutive, as those of training are."""
        if isinstance(sample_ids, range) and sample_ids.step == 1:
            chunk, first = divmod(sample_ids.start, self._order.chunk)
            if first + len(sample_ids) <= self._order.chunk:
                return self._chunk(chunk)[:, first : first + len(sample_ids)]
        return self._locate(np.asarray(sample_ids, np.int64))

    def _locate_chunk(self, chunk: int) -> Indices:
        size = self._order.chunk
        return self._locate(np.arange(chunk * size, (chunk + 1) * size))

    def _locate(self, samples: Indices) -> Indices:
        """Source, position in it, shard or SPLIT, and byte offset in the shard: [4, samples]."""
        sources, found = self._order.locate(samples)
        starts = self._firsts[sources] + found * self._step
        positions = self._bases[sources] + starts
        blocks = self._starts.searchsorted(positions, "right") - 1
        shards = np.where(positions + self._step < self._ends[blocks], self._shards_of[blocks], SPLIT)
        places = self._offsets[blocks] + (positions - self._starts[blocks]) * self._item_sizes[sources]
        return np.stack([sources, starts, shards, places])
