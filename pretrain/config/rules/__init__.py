"""All rules between keys; `violations` reports every one that a config breaks, all together."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pretrain.config.rule import Rule, Setup, Violation, broken_rules
from pretrain.config.rules import (
    bert_data,
    chat,
    cnn,
    corpus,
    finetune,
    gan,
    loss_health,
    remote,
    replicas,
    schedule,
    service,
    sources,
    stages,
    text,
    text_useless,
    warm_start,
)
from pretrain.config.sections import (
    BertConfig,
    ChatConfig,
    ClassifierConfig,
    CnnConfig,
    Config,
    GanConfig,
    GptConfig,
    RnnConfig,
    TaggerConfig,
)

_DESCENT: tuple[Rule[Any], ...] = (*schedule.RULES, *loss_health.RULES, *service.RULES)
_CORPUS: tuple[Rule[Any], ...] = (
    *text.RULES,
    *text_useless.USELESS,
    *sources.RULES,
    *remote.RULES,
    *corpus.RULES,
    *stages.RULES,
    *warm_start.RULES,
    *_DESCENT,
)
_FINETUNE: tuple[Rule[Any], ...] = (
    *text.RULES,
    *text_useless.USELESS,
    *finetune.RULES,
    *_DESCENT,
)

RULES: Mapping[type[Config], Sequence[Rule[Any]]] = MappingProxyType(
    {
        GptConfig: _CORPUS,
        BertConfig: (*_CORPUS, *bert_data.RULES),
        GanConfig: (*gan.RULES, *sources.TRAINING, *remote.RULES, *service.RULES),
        CnnConfig: (*replicas.RULES, *cnn.RULES, *sources.RULES, *remote.RULES, *_DESCENT),
        RnnConfig: (*replicas.RULES, *corpus.RULES, *sources.RULES, *remote.RULES, *_DESCENT),
        ClassifierConfig: (*_FINETUNE, *finetune.ENCODER),
        TaggerConfig: (*_FINETUNE, *finetune.ENCODER),
        ChatConfig: (*_FINETUNE, *chat.RULES),
    }
)
"""Class of a config -> its rules."""


def violations(config: Config, world_size: int | None) -> list[Violation]:
    """Every rule that the config breaks; `world_size` None leaves out the rules that depend on it."""
    return broken_rules(RULES[type(config)], Setup(config, world_size))
