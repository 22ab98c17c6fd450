"""Training and development examples of a fine-tuning run."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_tools.tokenizer import BertIds, Tokenizer
from pretrain.bert.finetune.data.conll import TaggedSentence, read_conll
from pretrain.bert.finetune.data.examples import (
    NO_LABEL,
    LabelledExample,
    Labels,
    encode_row,
    encode_sentence,
    training_labels,
)
from pretrain.config.sections import ClassifierConfig, FinetuneConfig, TaggerConfig
from pretrain.data.batch import PADDING_SAMPLE
from pretrain.data.in_memory import InMemoryTraining, InMemoryValidation
from pretrain.data.table import TextRow, read_table
from pretrain.errors import UserError


@dataclass(frozen=True)
class LabelledBatch:
    """B examples of S tokens.

    tokens, token_types: int64 [B, S]. padding_mask: bool [B, S], True for real tokens. labels: int64, [B] for
    texts or [B, S] for tagged words, NO_LABEL where there is nothing to predict. sample_ids: global sample of
    each row, PADDING_SAMPLE for a row that only fills the batch and has no label.
    """

    tokens: Tensor
    token_types: Tensor
    padding_mask: Tensor
    labels: Tensor
    sample_ids: tuple[int, ...]


def stack(
    examples: Sequence[tuple[int, LabelledExample | None]], width: int, pad: int, *, tagged: bool
) -> LabelledBatch:
    """Pad examples, each with its sample id, to `width` tokens; None makes a row without a label."""
    tokens = torch.full((len(examples), width), pad)
    token_types = torch.zeros(len(examples), width, dtype=torch.int64)
    padding_mask = torch.zeros(len(examples), width, dtype=torch.bool)
    labels = torch.full((len(examples), width) if tagged else (len(examples),), NO_LABEL)
    for row, (_, example) in enumerate(examples):
        if example is None:
            padding_mask[row, 0] = True  # attention needs at least one key
            continue
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        token_types[row, :size] = torch.tensor(example.token_types)
        padding_mask[row, :size] = True
        if tagged:
            labels[row, :size] = torch.tensor(example.tags)
        else:
            labels[row] = example.label
    ids = tuple(PADDING_SAMPLE if example is None else sample for sample, example in examples)
    return LabelledBatch(tokens, token_types, padding_mask, labels, ids)


log = logging.getLogger(__name__)

WIDTH_UNIT = 8
"""Widths are multiples of this and of the tensor parallel size, so that there are not too many of them."""


@dataclass(frozen=True)
class LabelledData:
    """The examples of one file.

    Attributes:
        path: the file.
        examples: in the order of the file.
        labels: the classes.
        tagged: whether words are classified, not texts.
        pad: token id of padding.
        width_unit: widths of batches are multiples of it, or `length`.
        length: tokens that the model takes at most.
        fingerprint: equal fingerprints give equal examples.
    """

    path: str
    examples: tuple[LabelledExample, ...]
    labels: Labels
    tagged: bool
    pad: int
    width_unit: int
    length: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.examples)

    def width(self, indices: Sequence[int]) -> int:
        """Tokens that the longest of these examples needs, rounded up to a width that the model takes."""
        longest = max(len(self.examples[index].tokens) for index in indices)
        return min(-(-longest // self.width_unit) * self.width_unit, self.length)


@dataclass(frozen=True)
class LabelledTraining(InMemoryTraining[LabelledData, LabelledBatch]):
    """The training examples in the order of a run."""

    @property
    def commonest(self) -> int:
        """Number of the class that most examples, or most words, have."""
        counts = Counter(number for each in self.data.examples for number in (each.words or (each.label,)))
        return min(counts, key=lambda number: (-counts[number], number))

    def rows(self, ids: Sequence[int], step: range) -> LabelledBatch:
        """These examples; all micro-batches of a step have the width of its longest example."""
        every = self.places(step)
        rows = [(sample, self.data.examples[every[sample - step.start]]) for sample in ids]
        return stack(rows, self.data.width(every), self.data.pad, tagged=self.data.tagged)


@dataclass(frozen=True)
class LabelledValidation(InMemoryValidation[LabelledData, LabelledBatch]):
    """The development examples, each once, in the order of the file."""

    def rows(self, rows: Sequence[tuple[int, int | None]]) -> LabelledBatch:
        """Examples by their position in the file, all of one width."""
        width = self.data.width(range(len(self.data)))
        examples = [(sample, None if index is None else self.data.examples[index]) for sample, index in rows]
        return stack(examples, width, self.data.pad, tagged=self.data.tagged)


def fingerprint(examples: Sequence[LabelledExample], labels: Labels) -> str:
    """The sha256 of what the examples say."""
    digest = hashlib.sha256(json.dumps(labels.names).encode())
    for example in examples:
        digest.update(json.dumps([example.tokens, example.label, example.tags, example.words]).encode())
    return digest.hexdigest()


def report_cut(path: str, examples: Sequence[LabelledExample], length: int) -> None:
    """Log how many examples lost tokens."""
    cut = [example for example in examples if example.cut]
    if cut:
        tokens = sum(example.cut for example in cut)
        log.warning(
            "%s: %d of %d examples are longer than batch.sequence_length %d and lose %d tokens; the first is "
            "in line %d",
            *(path, len(cut), len(examples), length, tokens, cut[0].line),
        )


def open_examples(
    config: FinetuneConfig, tokenizer_folder: Path
) -> tuple[LabelledTraining, LabelledValidation | None]:
    """Open what a fine-tuning run trains on and is judged by.

    Args:
        tokenizer_folder: of the pretrained model.

    Raises:
        UserError: as `open_labelled`.
    """
    tokenizer = Tokenizer.load(tokenizer_folder)
    train, validation = open_labelled(config, tokenizer, tokenizer_folder)
    batch = config.batch
    training = LabelledTraining.over(
        train, tokenizer, tokenizer_folder, config.run.seed, batch.global_size, batch.micro_size
    )
    return training, LabelledValidation(validation) if validation else None


def open_labelled(
    config: FinetuneConfig, tokenizer: Tokenizer, where: Path
) -> tuple[LabelledData, LabelledData | None]:
    """Training and development examples; the latter is None if the config names none.

    Args:
        tokenizer: of the pretrained model.
        where: its folder, for messages.

    Raises:
        UserError: a file, a column or a label is wrong, or the tokenizer has no special ids for BERT.
    """
    if tokenizer.bert_ids is None:
        raise UserError(
            f"{where}: the tokenizer has no [CLS], [SEP], [MASK] and [PAD]; the model is no BERT's"
        )
    files = [config.data.train, *([config.data.validation] if config.data.validation else [])]
    rows = [_read(config, path) for path in files]
    labels = training_labels(files[0], _labels_of(rows[0]), config.data.labels)
    data = [
        _encode(config, path, found, labels, tokenizer, tokenizer.bert_ids)
        for path, found in zip(files, rows, strict=True)
    ]
    return data[0], data[1] if len(data) > 1 else None


def _read(config: FinetuneConfig, path: str) -> list[TextRow] | list[TaggedSentence]:
    if isinstance(config, TaggerConfig):
        return read_conll(path, config.data.word_column, config.data.label_column)
    assert isinstance(config, ClassifierConfig), type(config).__name__
    texts = [config.data.text, *([config.data.text_pair] if config.data.text_pair else [])]
    return read_table(path, texts, config.data.label)


def _labels_of(rows: Iterable[TextRow | TaggedSentence]) -> list[str]:
    return [label for row in rows for label in ([row.label] if isinstance(row, TextRow) else row.labels)]


def _encode(
    config: FinetuneConfig,
    path: str,
    rows: Iterable[TextRow | TaggedSentence],
    labels: Labels,
    tokenizer: Tokenizer,
    special: BertIds,
) -> LabelledData:
    length = config.batch.sequence_length
    examples = tuple(
        encode_row(row, path, tokenizer, special, labels, length)
        if isinstance(row, TextRow)
        else encode_sentence(row, path, tokenizer, special, labels, length)
        for row in rows
    )
    report_cut(path, examples, length)
    return LabelledData(
        path=path,
        examples=examples,
        labels=labels,
        tagged=config.tagged,
        pad=special.pad,
        width_unit=WIDTH_UNIT * config.parallel.tensor,
        length=length,
        fingerprint=fingerprint(examples, labels),
    )
