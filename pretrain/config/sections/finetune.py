"""Runs that fine-tune a BERT: texts or pairs of texts into classes, or every word of a sentence."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.bert import EncoderModelConfig
from pretrain.config.sections.resume import (
    OTHER_CLASSES,
    OTHER_EXAMPLES,
    SAME_FILE,
    SAME_RUN,
    SCORED_FILE,
    must_agree,
)
from pretrain.config.sections.section import Name, PathText, Section, Texts
from pretrain.config.sections.text import TextConfig


class FinetuneModelConfig(EncoderModelConfig):
    """A BERT with a new head. What is not given here is as in the run that it comes from."""

    init_from: Annotated[PathText, SAME_RUN]
    """Run folder, or one checkpoint of it, of the BERT to start from."""
    init: Literal["pretrained", "random"] = "pretrained"
    """random: the same model and tokenizer, but weights drawn from `run.seed`: what pretraining is worth."""


class ClassifierModelConfig(FinetuneModelConfig):
    """A BERT that puts a text, or a pair, into a class (Devlin et al. 2019, section 4.1)."""

    kind: Literal["bert-classifier"]
    """Model family."""


class TaggerModelConfig(FinetuneModelConfig):
    """A BERT that puts every word of a sentence into a class (Devlin et al. 2019, section 5.3)."""

    kind: Literal["bert-tagger"]
    """Model family."""


class LabelledDataConfig(Section):
    """Where labelled examples come from."""

    train: Annotated[PathText, SAME_FILE]
    """File to train on."""
    validation: Annotated[PathText | None, SCORED_FILE] = None
    """File to score; null: nothing is scored."""
    labels: Annotated[
        Annotated[tuple[Name, ...], Texts, Field(min_length=2)] | None,
        must_agree("the order of the classes decides what each output means"),
    ] = None
    """The classes; null: those that the training file shows."""


class ClassifierDataConfig(LabelledDataConfig):
    """Where labelled texts come from: .tsv with a line of column names, or .jsonl."""

    text: Annotated[Name, OTHER_EXAMPLES]
    """Column of the text."""
    text_pair: Annotated[Name | None, OTHER_EXAMPLES] = None
    """Column of the second text of a pair; null: there is one text."""
    label: Annotated[Name, OTHER_CLASSES]
    """Column of the class."""


class TaggerDataConfig(LabelledDataConfig):
    """Where tagged words come from: files in CoNLL format, one word a line."""

    word_column: Annotated[int, OTHER_EXAMPLES] = Field(0, ge=-100, le=100)
    """Column of the word, counted from 0; below 0 from the right."""
    label_column: Annotated[int, OTHER_CLASSES] = Field(-1, ge=-100, le=100)
    """Column of the tag, counted alike."""


class FinetuneConfig(TextConfig):
    """A run that fine-tunes a BERT."""

    model: FinetuneModelConfig
    data: LabelledDataConfig

    @property
    def tagged(self) -> bool:
        """Whether words are put into classes, not texts."""
        return False


class ClassifierConfig(FinetuneConfig):
    """A run that trains a classifier of texts."""

    model: ClassifierModelConfig
    data: ClassifierDataConfig


class TaggerConfig(FinetuneConfig):
    """A run that trains a classifier of words."""

    model: TaggerModelConfig
    data: TaggerDataConfig

    @property
    def tagged(self) -> bool:
        """Words are."""
        return True
