"""Layouts of a fine-tuned BERT: an encoder with a linear layer for the classes of texts or of words."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.config.sections import FinetuneConfig, TaggerConfig
from pretrain.hf.bert import Bert, Encoder, MegatronBert
from pretrain.hf.link import Link, Sizes, pair

ONE_OF_THEM = "single_label_classification"
"""What transformers calls a text that has one class."""


class FinetunedBert(Bert):
    """`BertForSequenceClassification`, for words `BertForTokenClassification`; written, not read.

    Args:
        labels: the classes, in the order of their numbers.
    """

    heads = ("ForSequenceClassification", "ForTokenClassification")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def class_of(self, config: FinetuneConfig) -> str:
        return self.classes()[1 if isinstance(config, TaggerConfig) else 0]

    def _heads(self, config: FinetuneConfig, sizes: Sizes) -> Iterator[Link]:
        if not isinstance(config, TaggerConfig):
            yield from pair("pooler", "bert.pooler.dense", sizes.hidden, sizes.hidden)
        yield from pair("classes", "classifier", len(self.labels), sizes.hidden)

    def copies(self, config: Encoder) -> Mapping[str, str]:
        """None: there is no head over the vocabulary."""
        return {}

    def their_config(self, config: Encoder, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """See `Architecture`; with the names of the classes."""
        numbered = dict(enumerate(self.labels))
        found = super().their_config(config, vocab_size, ids)
        found |= {"id2label": numbered, "label2id": {name: number for number, name in numbered.items()}}
        return found if isinstance(config, TaggerConfig) else found | {"problem_type": ONE_OF_THEM}


class FinetunedMegatronBert(FinetunedBert, MegatronBert):
    """The same over `MegatronBertModel`."""
