"""What validation data of all kinds have in common: each sample once, in order, divided among ranks."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Generic, Self, TypeVar

from pretrain.data.sources import TokenRange, open_validation

B = TypeVar("B")
"""A micro-batch."""


class OfShards(ABC):
    """Validation data from token shards."""

    @classmethod
    @abstractmethod
    def over(cls, sources: tuple[TokenRange, ...], config: Any) -> Self:
        """A dataset of the samples in these ranges."""

    @classmethod
    def from_config(cls, config: Any, tokenizer_fingerprint: str | None = None) -> Self | None:
        """The validation data of a config; None if it has none.

        tokenizer_fingerprint: of the tokenizer that the model was trained with; by default that of
        `data.train`. Raises UserError or IntegrityError naming the path.
        """
        sources = open_validation(config, tokenizer_fingerprint)
        return None if sources is None else cls.over(sources, config)


class InTurn(ABC, Generic[B]):
    """Ranks take turns at the samples, in order; rows after the last sample are padding."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Number of samples of each source."""

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    def batches(self, size: int, micro_size: int) -> int:
        """Number of micro-batches that each of `size` data-parallel ranks gets."""
        return -(-self.samples // (size * micro_size))

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[B]:
        """The micro-batches of one rank: the same number on every rank, all of `micro_size` rows, some of
        them padding."""
        for micro_batch in range(self.batches(size, micro_size)):
            first = (micro_batch * size + rank) * micro_size
            yield self.these(range(first, first + micro_size))

    @abstractmethod
    def these(self, numbers: range) -> B:
        """The samples with these numbers as one micro-batch."""

    def find(self, number: int) -> tuple[int, int] | None:
        """Source of a sample and its position there; None after the last one."""
        ends = list(accumulate(self.sizes))
        source = bisect_right(ends, number)
        return (source, number - ends[source] + self.sizes[source]) if source < len(ends) else None
