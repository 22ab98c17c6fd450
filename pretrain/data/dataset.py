"""The dataset protocols: what the training loop needs from data, for any model family."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor

from data_tools.tokenizer import Tokenizer
from pretrain.data.order import InSteps, SampleOrder
from pretrain.data.sources import TokenRange, open_validation


class AnyBatch(Protocol):
    """One micro-batch of one data parallel rank, on the CPU."""

    @property
    def tokens(self) -> Tensor:
        """Token ids, int64 [B, S]."""

    @property
    def sample_ids(self) -> tuple[int, ...]:
        """Global sample of each row, `PADDING_SAMPLE` for a row that only fills up the shape."""


NO_VALIDATION = "none"
"""The fingerprint if there is no validation data."""


class TrainingDataset(Protocol):
    """Training samples in an order that follows from the step alone."""

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in all sources together."""

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer, including special ones."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shards were built with."""

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer; checkpoints include a copy."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples at every index."""

    def batch(self, step: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> Any:
        """Micro-batch `micro_batch` of step `step` (both from 0) for data-parallel rank `rank` of `size`.

        jumped: samples of the order that were skipped before this step.
        """


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


class ValidationDataset(ABC, Generic[B]):
    """Samples for validation, each scored once: ranks take turns at them, in order, and rows after the last
    sample are padding."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples."""

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


@dataclass(frozen=True)
class CorpusSamples(InSteps, ABC, Generic[B]):
    """The training samples of a run. Immutable: what comes next follows from the step alone."""

    sources: tuple[TokenRange, ...]
    order: SampleOrder
    sequence_length: int
    global_size: int
    micro_size: int
    fingerprint: str
    """Equal fingerprints give equal samples at every index."""
    skipped: int = field(default=0, kw_only=True)
    """Samples of the order before step 0."""

    @property
    def samples_per_epoch(self) -> int:
        return sum(self.order.sizes)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.sources[0].reader.tokenizer()

    @property
    def tokenizer_folder(self) -> Path:
        return self.sources[0].reader.tokenizer_folder

    @property
    def vocab_size(self) -> int:
        return self.sources[0].reader.index.vocab_size

    def batch(self, step: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> B:
        return self.samples(self.ids(step, micro_batch, rank, size, self.skipped + jumped))

    @abstractmethod
    def resized(self, config: Any) -> Self:
        """The same sources, cut into samples for another config of the same kind."""

    @abstractmethod
    def samples(self, sample_ids: Sequence[int]) -> B:
        """The samples with these global indices."""
