"""What the training loop asks of data, whatever the model family is fed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from data_tools.tokenizer import Tokenizer


class AnyBatch(Protocol):
    """One micro-batch of one data parallel rank, on the CPU."""

    @property
    def tokens(self) -> Tensor:
        """int64 [B, S]."""

    @property
    def sample_ids(self) -> tuple[int, ...]:
        """Global sample of each row, `PADDING_SAMPLE` for one that is there for the shape alone."""


NO_VALIDATION = "none"
"""The fingerprint where nothing is validated on."""


class TrainingDataset(Protocol):
    """Training samples in an order that is known from the step alone."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples in all sources together."""

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer, special ones included."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the tokens were made with."""

    @property
    def tokenizer_folder(self) -> Path:
        """Where it lies; checkpoints take it along."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples at every index."""

    def batch(self, step: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> Any:
        """Micro-batch `micro_batch` of step `step` (both from 0) for data-parallel rank `rank` of `size`.

        jumped: samples of the order that were jumped over before this step.
        """


class ValidationDataset(Protocol):
    """Samples that are scored, each once."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples."""

    def batches(self, size: int, micro_size: int) -> int:
        """Micro-batches that each of `size` data-parallel ranks gets."""

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[Any]:
        """Those of one rank: as many on every rank, all of `micro_size` rows."""
