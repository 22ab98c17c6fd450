"""What the training samples of token shards have in common in all model families."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from data_tools.tokenizer import Tokenizer
from pretrain.data.order import InSteps, SampleOrder
from pretrain.data.sources import TokenRange

B = TypeVar("B")


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
