"""Layouts of a fine-tuned BERT: an encoder with a linear layer for the classes of texts or of words."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from pretrain.config.sections import FinetuneConfig
from pretrain.data.batch import plain_positions
from pretrain.hf.architecture import of_real_tokens
from pretrain.hf.bert import Encoder, HfBert, HfMegatronBert
from pretrain.hf.param_mapping import ParamMapping, Sizes, pair
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims

ONE_OF_THEM = "single_label_classification"
"""What transformers calls a text that has one class."""


class HfFinetunedBert(HfBert):
    """`BertForSequenceClassification`, for words `BertForTokenClassification`; exported, not imported.

    Args:
        labels: the classes, in the order of their numbers.
    """

    holds = FinetuneConfig
    heads = ("ForSequenceClassification", "ForTokenClassification")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels: tuple[str, ...] = labels

    def family(self, config: FinetuneConfig, layout: ParallelDims) -> ModelSpec[Any, Any]:
        from pretrain.bert.finetune.spec import FinetuneSpec

        return FinetuneSpec(config, layout, len(self.labels), commonest=0, tagged=config.tagged)

    def logits(self, chunk: Any, tokens_BS: Tensor, types_BS: Tensor, real_BS: Tensor) -> list[Tensor]:
        """Logits of texts, or of real tokens."""
        positions, mask = plain_positions(*tokens_BS.shape), real_BS[:, None, None]
        return [of_real_tokens(chunk(tokens_BS, types_BS, positions, mask), real_BS)]

    def class_of(self, config: FinetuneConfig) -> str:
        return self.classes()[1 if config.tagged else 0]

    def _heads(self, config: FinetuneConfig, sizes: Sizes) -> Iterator[ParamMapping]:
        if not config.tagged:
            yield from pair("pooler", "bert.pooler.dense", sizes.hidden, sizes.hidden)
        yield from pair("classes", "classifier", len(self.labels), sizes.hidden)

    def copies(self, config: Encoder) -> Mapping[str, str]:
        """There are none, as there is no head over the vocabulary."""
        return {}

    def their_config(self, config: Any, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        """See `Architecture`; includes the names of the classes."""
        numbered = dict(enumerate(self.labels))
        found = super().their_config(config, vocab_size, ids)
        found |= {"id2label": numbered, "label2id": {name: number for number, name in numbered.items()}}
        return found if config.tagged else found | {"problem_type": ONE_OF_THEM}


class HfFinetunedMegatronBert(HfFinetunedBert, HfMegatronBert):
    """The same over `MegatronBertModel`."""
