"""The dataset protocols: what the training loop needs from data, for any model family."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from data_tools.tokenizer import Tokenizer


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


class ValidationDataset(Protocol):
    """Samples for validation, each scored once."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples."""

    def batches(self, size: int, micro_size: int) -> int:
        """Number of micro-batches that each of `size` data-parallel ranks gets."""

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[Any]:
        """The micro-batches of one rank: the same number on every rank, all of `micro_size` rows."""
