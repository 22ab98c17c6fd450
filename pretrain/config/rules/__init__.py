"""All rules between keys; `violations` reports every one that a config breaks."""

from typing import Any

from pretrain.config.rule import Rule, Setup, Violation, broken_rules
from pretrain.config.rules import (
    corpus,
    finetune,
    loss_health,
    remote,
    schedule,
    service,
    sources,
    stages,
    transformer,
    transformer_unused,
)
from pretrain.config.sections import Config
from pretrain.kinds import kind_of

DESCENT: tuple[Rule[Any], ...] = (*schedule.RULES, *loss_health.RULES, *service.RULES)
"""Rules for every run that minimises one loss."""
CORPUS: tuple[Rule[Any], ...] = (
    *transformer.RULES,
    *transformer_unused.USELESS,
    *sources.RULES,
    *remote.RULES,
    *corpus.RULES,
    *stages.RULES,
    *transformer_unused.INIT_FROM,
    *DESCENT,
)
"""Rules for a transformer on token shards."""
FINETUNE: tuple[Rule[Any], ...] = (
    *transformer.RULES,
    *transformer_unused.USELESS,
    *finetune.RULES,
    *DESCENT,
)
"""Rules for a transformer that is fine-tuned."""


def violations(config: Config, world_size: int | None) -> list[Violation]:
    """Every rule that the config breaks. Without `world_size`, rules that depend on it are left out."""
    return broken_rules(kind_of(config).rules, Setup(config, world_size))
