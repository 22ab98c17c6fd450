"""All rules between keys; `violations` reports every one that a config breaks, all together."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pretrain.config.rule import Rule, Setup, Violation, broken_rules
from pretrain.config.rules import corpus, gan, loss_health, service, text, text_useless
from pretrain.config.sections import BertConfig, Config, GanConfig, GptConfig

_CORPUS: tuple[Rule[Any], ...] = (
    *text.RULES,
    *text_useless.USELESS,
    *corpus.RULES,
    *loss_health.RULES,
    *service.RULES,
)

RULES: Mapping[type[Config], Sequence[Rule[Any]]] = MappingProxyType(
    {GptConfig: _CORPUS, BertConfig: _CORPUS, GanConfig: (*gan.RULES, *service.RULES)}
)
"""Class of a config -> its rules."""


def violations(config: Config, world_size: int | None) -> list[Violation]:
    """Every rule that the config breaks; `world_size` None leaves out the rules that depend on it."""
    return broken_rules(RULES[type(config)], Setup(config, world_size))
