"""What differs between model families under one training loop: the module, the batch, the losses."""

from typing import Any

from pretrain.config.sections import BertConfig, DecoderConfig, TextConfig
from pretrain.families.bert import BertFamily
from pretrain.families.family import Family
from pretrain.families.gpt import GptFamily
from pretrain.layout import Layout


def family_of(config: TextConfig, layout: Layout) -> Family[Any, Any]:
    """The family of a config's `model.kind`, on this rank."""
    if isinstance(config, DecoderConfig):
        return GptFamily(config, layout)
    if isinstance(config, BertConfig):
        return BertFamily(config, layout)
    raise TypeError(type(config).__name__)
