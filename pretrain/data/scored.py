"""What validation data of all kinds have in common: each sample once, in order, shared out among ranks."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Generic, Self, TypeVar

from pretrain.data.sources import TokenRange, open_validation

B = TypeVar("B")
"""A micro-batch."""


class OfShards(ABC):
    """Validation data of token shards."""

    @classmethod
    @abstractmethod
    def over(cls, sources: tuple[TokenRange, ...], config: Any) -> Self:
        """The samples of these ranges."""

    @classmethod
    def from_config(cls, config: Any, tokenizer_fingerprint: str | None = None) -> Self | None:
        """The validation data of a config, None when it has none.

        tokenizer_fingerprint: what the model was trained with; by default that of `data.train`. Raises
        UserError or IntegrityError naming the path.
        """
        sources = open_validation(config, tokenizer_fingerprint)
        return None if sources is None else cls.over(sources, config)


class InTurn(ABC, Generic[B]):
    """Samples go to the ranks in turn, in order; rows beyond the last one are padding."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Samples of each source."""

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    def batches(self, size: int, micro_size: int) -> int:
        """Micro-batches that each of `size` data-parallel ranks gets."""
        return -(-self.samples // (size * micro_size))

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[B]:
        """Those of one rank: as many on every rank, all of `micro_size` rows, some of them padding."""
        for micro_batch in range(self.batches(size, micro_size)):
            first = (micro_batch * size + rank) * micro_size
            yield self.these(range(first, first + micro_size))

    @abstractmethod
    def these(self, numbers: range) -> B:
        """The samples of these numbers as one micro-batch."""

    def find(self, number: int) -> tuple[int, int] | None:
        """Source of a sample and its place there; None beyond the last one."""
        ends = list(accumulate(self.sizes))
        source = bisect_right(ends, number)
        return (source, number - ends[source] + self.sizes[source]) if source < len(ends) else None
