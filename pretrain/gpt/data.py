"""Batches of tokens: training batches by step, validation batches in order.

Both are pure functions of the config and the shards. A sample of a source is S + 1 tokens, sample j being [j
S, j S + S + 1): its last token is only a label here, and the first input of sample j + 1.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pretrain.config.sections import GptConfig
from pretrain.data.batch import (
    Batch,
    BatchRow,
    every_label,
    inputs_and_labels,
    make_batch,
    padding_row,
    plain_positions,
)
from pretrain.data.dataset import CorpusSamples, OfShards, ValidationDataset
from pretrain.data.order import make_order
from pretrain.data.sources import TokenRange, fingerprint_of, open_training
from pretrain.errors import UserError
from pretrain.gpt.stored import StoredSamples


@dataclass(frozen=True)
class Window:
    """Inputs [start, stop - 1) and labels [start + 1, stop) of the stream; labels count from `score_from`."""

    start: int
    stop: int
    score_from: int


@dataclass(frozen=True)
class Windows:
    """Windows over the tokens [start, stop) of a stream, by index, that score each label exactly once.

    A range of n tokens has n - 1 labels: every token but the first, which nothing precedes. Windows are
    `length` labels long. The first scores all of its labels; each later one begins `stride` further on and
    scores only its last `stride` labels, the others being context. With stride = length the windows do not
    overlap. The last window may be partial. Every label is scored with at least length - stride + 1 tokens of
    context, or with all that there are.
    """

    start: int
    stop: int
    length: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.length:
            raise UserError(
                f"stride {self.stride} must be from 1 to the sequence length {self.length}: a longer one "
                "would skip labels"
            )

    def __len__(self) -> int:
        beyond_first = max(0, self.stop - self.start - 1 - self.length)
        return -(-beyond_first // self.stride) + (self.stop - self.start > 1)

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = self.start + index * self.stride
        score_from = start + 1 + (self.length - self.stride if index else 0)
        return Window(start, min(start + self.length + 1, self.stop), score_from)

    @property
    def scored(self) -> tuple[int, int]:
        """The labels that count, as one half-open range of the stream."""
        return self.start + 1, max(self.stop, self.start + 1)


def open_data(config: GptConfig) -> "tuple[TrainingData, ValidationData | None]":
    """Open what a config names; raises UserError or IntegrityError naming the path."""
    return TrainingData.from_config(config), ValidationData.from_config(config)


@dataclass(frozen=True)
class TrainingData(CorpusSamples[Batch]):
    """The training samples of a GPT."""

    stored: StoredSamples
    reset_at_document_end: bool

    @classmethod
    def from_config(cls, config: GptConfig) -> "TrainingData":
        """Open the sources of `data.train`; raises UserError or IntegrityError naming the path."""
        return cls.over(open_training(config), config)

    @classmethod
    def over(cls, sources: tuple[TokenRange, ...], config: GptConfig) -> "TrainingData":
        """The samples of these ranges, in the sizes and the order that a config asks for."""
        length = config.batch.sequence_length
        weights = [source.weight for source in config.data.train]
        order = make_order(config.run.seed, [(source.tokens - 1) // length for source in sources], weights)
        reset = config.data.reset_at_document_end
        identity = {
            "sources": [source.describe() for source in sources],
            "weights": weights,
            "sequence_length": length,
            "seed": config.run.seed,
            "reset_at_document_end": reset,
        }
        return cls(
            sources=sources,
            order=order,
            sequence_length=length,
            global_size=config.batch.global_size,
            micro_size=config.batch.micro_size,
            fingerprint=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
            stored=StoredSamples(sources, order, length),
            reset_at_document_end=reset,
        )

    def resized(self, config: GptConfig) -> "TrainingData":
        return self.over(self.sources, config)

    def samples(self, sample_ids: Sequence[int]) -> Batch:
        if not self.reset_at_document_end:
            stored = self.stored.read(sample_ids)
            if int(stored.max()) < self.vocab_size:  # else row by row, whose error names the place
                return self._whole(stored, tuple(sample_ids))
        sources, found = self.order.locate(np.asarray(sample_ids, dtype=np.int64))
        rows = [
            self._row(sample_id, self.sources[source], sample)
            for sample_id, source, sample in zip(sample_ids, sources.tolist(), found.tolist(), strict=True)
        ]
        return make_batch(rows, self.sequence_length, self.vocab_size)

    def _whole(self, stored: npt.NDArray[np.integer], sample_ids: tuple[int, ...]) -> Batch:
        """A batch whose labels all count, and in which documents do not matter."""
        tokens, labels = inputs_and_labels(stored)
        mask, positions = self._frame
        if len(sample_ids) != self.micro_size:
            mask, positions = self._make_frame(len(sample_ids))
        return Batch(tokens, labels, mask, positions, None, sample_ids)

    @cached_property
    def _frame(self) -> tuple[Tensor, Tensor]:
        """Loss mask and positions, which all micro-batches share."""
        return self._make_frame(self.micro_size)

    def _make_frame(self, rows: int) -> tuple[Tensor, Tensor]:
        return every_label(rows, self.sequence_length), plain_positions(rows, self.sequence_length)

    def _row(self, sample_id: int, source: TokenRange, sample: int) -> BatchRow:
        start = source.start + sample * self.sequence_length
        return source.row(
            sample_id, start, start + self.sequence_length + 1, reset=self.reset_at_document_end
        )


@dataclass(frozen=True)
class ValidationData(OfShards, ValidationDataset[Batch]):
    """Every label of the validation sources, scored once: see `Windows`."""

    sources: tuple[TokenRange, ...]
    windows_of: tuple[Windows, ...]
    sequence_length: int
    reset_at_document_end: bool

    @classmethod
    def over(
        cls, sources: tuple[TokenRange, ...], config: GptConfig, stride: int | None = None
    ) -> "ValidationData":
        """Windows over these ranges, `stride` labels apart, by default `batch.sequence_length`.

        `eval.max_windows` keeps the labels of that many whole sequences of each source, whatever the stride.
        """
        length, most = config.batch.sequence_length, config.eval.max_windows
        ends = [s.stop if most is None else min(s.stop, s.start + most * length + 1) for s in sources]
        windows = tuple(
            Windows(source.start, end, length, stride or length)
            for source, end in zip(sources, ends, strict=True)
        )
        return cls(sources, windows, length, config.data.reset_at_document_end)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(windows) for windows in self.windows_of)

    @property
    def tokens(self) -> int:
        return sum(stop - start for start, stop in self.scored)

    @property
    def scored(self) -> tuple[tuple[int, int], ...]:
        """Per source, the half-open range of stream positions whose tokens are scored as labels."""
        return tuple(windows.scored for windows in self.windows_of)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.sources)

    def these(self, numbers: range) -> Batch:
        rows = [self._row(number) for number in numbers]
        return make_batch(rows, self.sequence_length, self.sources[0].reader.index.vocab_size)

    def _row(self, index: int) -> BatchRow:
        found = self.find(index)
        if found is None:
            return padding_row(self.reset_at_document_end)
        source, place = found
        window = self.windows_of[source][place]
        return self.sources[source].row(
            index,
            window.start,
            window.stop,
            reset=self.reset_at_document_end,
            score_from=window.score_from - window.start - 1,
        )
