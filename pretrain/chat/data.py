"""Training and validation sequences of a run on conversations.

Conversations are few enough to hold in memory. Which of them share a sequence follows from their lengths
alone; the order of sequences is the keyed permutation that all training uses, so what comes next is known
from the step.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data_tools.tokenizer import Tokenizer
from pretrain.chat.conversation import read_conversations
from pretrain.chat.examples import Example, encode, fitting
from pretrain.chat.packing import pack
from pretrain.chat.template import ChatTemplate
from pretrain.config.sections import ChatConfig
from pretrain.data.batch import PADDING_SAMPLE, Batch
from pretrain.data.order import SampleOrder, make_order, micro_batch_samples


@dataclass(frozen=True)
class ChatSequences:
    """The sequences of one file.

    path: the file. examples: its conversations. rows: of each sequence, which examples it holds. length:
    positions of a sequence.
    """

    path: str
    examples: tuple[Example, ...]
    rows: tuple[tuple[int, ...], ...]
    length: int

    @classmethod
    def read(
        cls, path: str, config: ChatConfig, tokenizer: Tokenizer, template: ChatTemplate
    ) -> "ChatSequences":
        """Those of a file; raises UserError naming file and line."""
        length = config.batch.sequence_length
        whole = encode(path, read_conversations(path, config.data), tokenizer, template)
        examples = fitting(path, whole, length, truncate=config.data.too_long == "truncate")
        sizes = [example.size for example in examples]
        rows = pack(sizes, length) if config.data.packing else [(index,) for index in range(len(sizes))]
        return cls(path, examples, tuple(rows), length)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> str:
        """Counts, on one line."""
        used = sum(example.size for example in self.examples)
        counted = sum(int(example.said.sum()) for example in self.examples)
        share = used / (len(self.rows) * self.length)
        return (
            f"{self.path}: {len(self.examples):,} conversations in {len(self.rows):,} sequences, which they "
            f"fill to {share:.1%}; {counted:,} tokens of answers"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal sequences."""
        digest = hashlib.sha256(f"{self.length} {self.rows}".encode())
        for example in self.examples:
            digest.update(len(example.tokens).to_bytes(8, "little"))
            digest.update(example.tokens.tobytes())
            digest.update(example.said.tobytes())
        return digest.hexdigest()

    def batch(self, rows: Sequence[tuple[int, int | None]]) -> Batch:
        """Sequences, each with its sample id; None makes one without a label.

        Examples lie one behind the other; each is a document. What is left over is one more.
        """
        stored = np.zeros((4, len(rows), self.length), np.int64)
        tokens, labels, positions, documents = stored
        counts = np.zeros((len(rows), self.length), np.float32)
        positions[:] = np.arange(self.length)
        for row, (_, index) in enumerate(rows):
            start = 0
            for number, example in enumerate(self._examples(index)):
                part = slice(start, start + example.size)
                tokens[row, part], labels[row, part] = example.tokens[:-1], example.tokens[1:]
                counts[row, part] = example.said[1:]
                positions[row, part] = np.arange(example.size)
                documents[row, part] = number
                start += example.size
                documents[row, start:] = number + 1
        one_each = all(len(self._examples(index)) < 2 for _, index in rows)
        return Batch(
            tokens=torch.from_numpy(tokens),
            labels=torch.from_numpy(labels),
            loss_mask=torch.from_numpy(counts),
            position_ids=torch.from_numpy(positions),
            # Causal attention alone keeps a single example from the padding behind it.
            document_ids=None if one_each else torch.from_numpy(documents),
            sample_ids=tuple(PADDING_SAMPLE if index is None else sample for sample, index in rows),
        )

    def _examples(self, index: int | None) -> list[Example]:
        return [] if index is None else [self.examples[number] for number in self.rows[index]]


@dataclass(frozen=True)
class ChatTraining:
    """The training sequences in the order of a run."""

    sequences: ChatSequences
    tokenizer: Tokenizer
    tokenizer_folder: Path
    order: SampleOrder
    global_size: int
    micro_size: int

    @classmethod
    def over(
        cls, sequences: ChatSequences, tokenizer: Tokenizer, folder: Path, config: ChatConfig
    ) -> "ChatTraining":
        """The order under the config's seed."""
        order = make_order(config.run.seed, [len(sequences)], [1.0])
        batch = config.batch
        return cls(sequences, tokenizer, folder, order, batch.global_size, batch.micro_size)

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer, special ones included."""
        return self.tokenizer.vocab_size

    @property
    def samples_per_epoch(self) -> int:
        """Sequences of the file."""
        return len(self.sequences)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints give equal sequences at every index."""
        return hashlib.sha256(f"{self.sequences.fingerprint} {self.order.seed}".encode()).hexdigest()

    def batch(self, step: int, micro_batch: int, rank: int, size: int) -> Batch:
        """Micro-batch `micro_batch` of step `step` (both from 0) for data-parallel rank `rank` of `size`."""
        ids = micro_batch_samples(
            step=step,
            micro_batch=micro_batch,
            rank=rank,
            size=size,
            global_size=self.global_size,
            micro_size=self.micro_size,
        )
        _, places = self.order.locate(np.arange(ids.start, ids.stop))
        return self.sequences.batch(list(zip(ids, places.tolist(), strict=True)))


@dataclass(frozen=True)
class ChatValidation:
    """The sequences of a development file, each once."""

    sequences: ChatSequences

    def batches(self, size: int, micro_size: int) -> int:
        """Micro-batches that each of `size` data-parallel ranks gets."""
        return -(-len(self.sequences) // (size * micro_size))

    def micro_batches(self, rank: int, size: int, micro_size: int) -> Iterator[Batch]:
        """Those of one rank: as many on every rank, all of `micro_size` rows, some of them padding."""
        for micro_batch in range(self.batches(size, micro_size)):
            first = (micro_batch * size + rank) * micro_size
            there = range(first, first + micro_size)
            yield self.sequences.batch(
                [(index, index if index < len(self.sequences) else None) for index in there]
            )
