"""Training and development examples of a fine-tuning run.

They are few enough to hold in memory. The order is the keyed permutation that all training uses, so what
comes next is known from the step alone.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.tokenizer import Tokenizer
from pretrain.data.labelled.batch import LabelledBatch, stack
from pretrain.data.labelled.examples import Example
from pretrain.data.labelled.labels import Labels
from pretrain.data.order import SampleOrder, make_order, micro_batch_samples

log = logging.getLogger(__name__)

WIDTH_UNIT = 8
"""Widths are multiples of this and of the tensor parallel size, so that there are not too many of them."""


@dataclass(frozen=True)
class LabelledData:
    """The examples of one file.

    Attributes:
        path: the file.
        examples: in its order.
        labels: the classes.
        tagged: whether words are classified, not texts.
        pad: token id of padding.
        width_unit: widths of batches are multiples of it.
        fingerprint: equal fingerprints give equal examples.
    """

    path: str
    examples: tuple[Example, ...]
    labels: Labels
    tagged: bool
    pad: int
    width_unit: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.examples)

    def width(self, indices: Sequence[int]) -> int:
        """Tokens that the longest of these examples needs, up to the next whole unit."""
        longest = max(len(self.examples[index].tokens) for index in indices)
        return -(-longest // self.width_unit) * self.width_unit


@dataclass(frozen=True)
class LabelledTraining:
    """The training examples in the order of a run."""

    data: LabelledData
    tokenizer: Tokenizer
    tokenizer_folder: Path
    order: SampleOrder
    global_size: int
    micro_size: int

    @classmethod
    def over(
        cls,
        data: LabelledData,
        tokenizer: Tokenizer,
        tokenizer_folder: Path,
        seed: int,
        global_size: int,
        micro_size: int,
    ) -> "LabelledTraining":
        """The order under one seed."""
        order = make_order(seed, [len(data)], [1.0])
        return cls(data, tokenizer, tokenizer_folder, order, global_size, micro_size)

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer, special ones included."""
        return self.tokenizer.vocab_size

    @property
    def samples_per_epoch(self) -> int:
        """Examples in the file."""
        return len(self.data)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal examples at every index."""
        return hashlib.sha256(f"{self.data.fingerprint} {self.order.seed}".encode()).hexdigest()

    @property
    def commonest(self) -> int:
        """Number of the class that most examples, or words, are of."""
        counts = Counter(number for each in self.data.examples for number in (each.words or (each.label,)))
        return min(counts, key=lambda number: (-counts[number], number))

    def batch(self, step: int, micro_batch: int, rank: int, size: int) -> LabelledBatch:
        """Micro-batch `micro_batch` of step `step` (both from 0) for data-parallel rank `rank` of `size`.

        All micro-batches of a step have the width of its longest example.
        """
        ids = micro_batch_samples(
            step=step,
            micro_batch=micro_batch,
            rank=rank,
            size=size,
            global_size=self.global_size,
            micro_size=self.micro_size,
        )
        first = step * self.global_size
        every = self._places(range(first, first + self.global_size))
        mine = every[ids.start - first : ids.stop - first]
        rows = [(sample, self.data.examples[place]) for sample, place in zip(ids, mine, strict=True)]
        return stack(rows, self.data.width(every), self.data.pad, tagged=self.data.tagged)

    def _places(self, samples: range) -> list[int]:
        _, places = self.order.locate(np.arange(samples.start, samples.stop))
        found: list[int] = places.tolist()
        return found


@dataclass(frozen=True)
class LabelledValidation:
    """The development examples, each once, in the order of the file."""

    data: LabelledData

    def batches(self, size: int, micro_size: int) -> int:
        """Micro-batches that each of `size` data-parallel ranks gets."""
        return -(-len(self.data) // (size * micro_size))

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[LabelledBatch]:
        """Those of one rank: as many on every rank, all of `micro_size` rows, some of them padding."""
        width = self.data.width(range(len(self.data)))
        for micro_batch in range(self.batches(size, micro_size)):
            first = (micro_batch * size + rank) * micro_size
            rows = [
                (index, self.data.examples[index] if index < len(self.data) else None)
                for index in range(first, first + micro_size)
            ]
            yield stack(rows, width, self.data.pad, tagged=self.data.tagged)


def fingerprint(examples: Sequence[Example], labels: Labels) -> str:
    """The sha256 of what the examples say."""
    digest = hashlib.sha256(json.dumps(labels.names).encode())
    for example in examples:
        digest.update(json.dumps([example.tokens, example.label, example.tags, example.words]).encode())
    return digest.hexdigest()


def report_cut(path: str, examples: Sequence[Example], length: int) -> None:
    """Say how many examples lost tokens."""
    cut = [example for example in examples if example.cut]
    if cut:
        tokens = sum(example.cut for example in cut)
        log.warning(
            "%s: %d of %d examples are longer than batch.sequence_length %d and lose %d tokens; the first is "
            "in line %d",
            *(path, len(cut), len(examples), length, tokens, cut[0].line),
        )
