"""Reads and encodes the files that a fine-tuning config names."""

from collections.abc import Iterable
from pathlib import Path

from data_tools.tokenizer import BertIds, Tokenizer
from pretrain.bert.finetune.data.conll import TaggedSentence, read_conll
from pretrain.bert.finetune.data.data import (
    WIDTH_UNIT,
    LabelledData,
    LabelledTraining,
    LabelledValidation,
    fingerprint,
    report_cut,
)
from pretrain.bert.finetune.data.examples import encode_row, encode_sentence
from pretrain.bert.finetune.data.labels import Labels, training_labels
from pretrain.config.sections import ClassifierConfig, FinetuneConfig, TaggerConfig
from pretrain.data.table import TextRow, read_table
from pretrain.errors import UserError


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
