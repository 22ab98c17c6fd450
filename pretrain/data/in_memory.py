"""In-memory datasets: examples that are few enough to keep in memory, in the order of a run.

The order is the keyed permutation that all training uses, so what comes next follows from the step alone.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from data_tools.tokenizer import Tokenizer
from pretrain.data.dataset import ValidationDataset
from pretrain.data.order import InSteps, SampleOrder, make_order


class InMemoryDataset(Protocol):
    """The encoded content of a file."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples."""

    def __len__(self) -> int: ...


H = TypeVar("H", bound=InMemoryDataset)
B = TypeVar("B")
"""A micro-batch."""


@dataclass(frozen=True)
class InMemoryTraining(InSteps, ABC, Generic[H, B]):
    """The samples of a training file in the order of a run."""

    data: H
    tokenizer: Tokenizer
    tokenizer_folder: Path
    order: SampleOrder
    global_size: int
    micro_size: int

    @classmethod
    def over(
        cls,
        data: H,
        tokenizer: Tokenizer,
        tokenizer_folder: Path,
        seed: int,
        global_size: int,
        micro_size: int,
    ) -> Self:
        order = make_order(seed, [len(data)], [1.0])
        return cls(data, tokenizer, tokenizer_folder, order, global_size, micro_size)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def samples_per_epoch(self) -> int:
        return len(self.data)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal samples at every index."""
        return hashlib.sha256(f"{self.data.fingerprint} {self.order.seed}".encode()).hexdigest()

    def batch(self, step: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> B:
        ids = self.ids(step, micro_batch, rank, size, jumped)
        first = jumped + step * self.global_size
        return self.rows(list(ids), range(first, first + self.global_size))

    @abstractmethod
    def rows(self, ids: Sequence[int], step: range) -> B:
        """The samples with these global indices; `step` has all indices of the same step."""

    def places(self, ids: Sequence[int]) -> list[int]:
        """The positions of samples in the file."""
        _, positions = self.order.locate(np.asarray(ids))
        found: list[int] = positions.tolist()
        return found


@dataclass(frozen=True)
class InMemoryValidation(ValidationDataset[B], Generic[H, B]):
    """The samples of a validation file, each once, in the file's order."""

    data: H

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.data),)

    def these(self, numbers: range) -> B:
        return self.rows([(index, index if index < len(self.data) else None) for index in numbers])

    @abstractmethod
    def rows(self, rows: Sequence[tuple[int, int | None]]) -> B:
        """Samples by their position in the file, each with its id; None is padding."""
