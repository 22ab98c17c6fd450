"""Training and validation sequences of a run on conversations.

Which conversations share a sequence follows from their lengths alone.
"""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data_tools.counts import counted
from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.tokenizer import tokenizer_folder
from pretrain.config.load import LoadedConfig
from pretrain.config.sections import ChatConfig
from pretrain.data.batch import PADDING_SAMPLE, Batch
from pretrain.data.in_memory import InMemoryTraining, InMemoryValidation
from pretrain.gpt.chat.conversation import read_conversations
from pretrain.gpt.chat.examples import ChatExample, encode, fitting
from pretrain.gpt.chat.template import ChatTemplate, template_of
from pretrain.megatron.init_from import InitFrom, find_init_from, require_init_from
from pretrain.run.exit import print_error


@dataclass(frozen=True)
class ChatSequences:
    """The sequences of one file.

    path: the file. examples: its conversations. rows: for each sequence, which examples it has. length:
    positions of a sequence.
    """

    path: str
    examples: tuple[ChatExample, ...]
    rows: tuple[tuple[int, ...], ...]
    length: int

    @classmethod
    def read(
        cls, path: str, config: ChatConfig, tokenizer: Tokenizer, template: ChatTemplate
    ) -> "ChatSequences":
        """Read the sequences of a file. Raises UserError naming file and line."""
        length = config.batch.sequence_length
        whole = encode(path, read_conversations(path, config.data), tokenizer, template)
        examples = fitting(path, whole, length, truncate=config.data.too_long == "truncate")
        sizes = [example.size for example in examples]
        rows = pack(sizes, length) if config.data.packing else [(index,) for index in range(len(sizes))]
        return cls(path, examples, tuple(rows), length)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> str:
        used = sum(example.size for example in self.examples)
        answers = sum(int(example.said.sum()) for example in self.examples)
        share = used / (len(self.rows) * self.length)
        return (
            f"{self.path}: {counted(len(self.examples), 'conversation')} in "
            f"{counted(len(self.rows), 'sequence')}, which they "
            f"fill to {share:.1%}; {counted(answers, 'token')} of answers"
        )

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.length} {self.rows}".encode())
        for example in self.examples:
            digest.update(len(example.tokens).to_bytes(8, "little"))
            digest.update(example.tokens.tobytes())
            digest.update(example.said.tobytes())
        return digest.hexdigest()

    def batch(self, rows: Sequence[tuple[int, int | None]]) -> Batch:
        """Sequences, each with its sample id; None makes one without a label.

        Examples lie one after the other; each is a document. The rest of the sequence is one more document.
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
            # With a single example, causal attention alone keeps it from seeing the padding after it.
            document_ids=None if one_each else torch.from_numpy(documents),
            sample_ids=tuple(PADDING_SAMPLE if index is None else sample for sample, index in rows),
        )

    def _examples(self, index: int | None) -> list[ChatExample]:
        return [] if index is None else [self.examples[number] for number in self.rows[index]]


@dataclass(frozen=True)
class ChatTraining(InMemoryTraining[ChatSequences, Batch]):
    """The training sequences in the order of a run."""

    def rows(self, ids: Sequence[int], step: range) -> Batch:
        return self.data.batch(list(zip(ids, self.places(ids), strict=True)))


@dataclass(frozen=True)
class ChatValidation(InMemoryValidation[ChatSequences, Batch]):
    """The sequences of a development file, each once."""

    def rows(self, rows: Sequence[tuple[int, int | None]]) -> Batch:
        return self.data.batch(rows)


def pack(sizes: Sequence[int], capacity: int) -> list[tuple[int, ...]]:
    """Put all items into as few bins as best-fit decreasing needs (Johnson 1974).

    The largest item comes first, and each goes into the bin that it fills best.

    Args:
        sizes: of the items, at most `capacity` each.
        capacity: of a bin.

    Returns:
        Items of each bin, in order; bins in the order of their first items.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    """(room, bin), sorted; a full bin is not in it."""
    for item in sorted(range(len(sizes)), key=lambda item: (-sizes[item], item)):
        place = bisect_left(free, (sizes[item], -1))
        if place < len(free):
            room, number = free.pop(place)
        else:
            room, number = capacity, len(bins)
            bins.append([])
        bins[number].append(item)
        if room > sizes[item]:
            insort(free, (room - sizes[item], number))
    return sorted(tuple(sorted(found)) for found in bins)


@dataclass(frozen=True)
class OpenedChat:
    """The template of the run, and its files, encoded."""

    template: ChatTemplate
    training: ChatTraining
    validation: ChatValidation | None
    """None where the config names no file."""


def open_chat(config: ChatConfig, start: InitFrom) -> OpenedChat:
    """Read everything that a config names.

    Raises UserError or IntegrityError if the run that weights come from has no tokenizer, or a file is wrong.
    """
    template = _template(config, start.checkpoint)
    folder = tokenizer_folder(start.checkpoint)
    tokenizer = Tokenizer.load(folder)
    path = config.data.validation
    train = ChatSequences.read(config.data.train, config, tokenizer, template)
    validation = ChatSequences.read(path, config, tokenizer, template) if path else None
    seed, batch = config.run.seed, config.batch
    training = ChatTraining.over(train, tokenizer, folder, seed, batch.global_size, batch.micro_size)
    return OpenedChat(template, training, ChatValidation(validation) if validation else None)


def check_conversations(loaded: LoadedConfig, config: ChatConfig, processes: int | None) -> ChatTraining:
    """`open_chat` for `pretrain check`, before a run is opened."""
    return open_chat(config, require_init_from(find_init_from(config, print_error))).training


def _template(config: ChatConfig, start: Checkpoint) -> ChatTemplate:
    """The template of the config, else of the checkpoint that the weights come from, else the default one."""
    if config.data.chat_template is not None:
        return ChatTemplate.read(config.data.chat_template)
    return template_of(start) or ChatTemplate.default()
