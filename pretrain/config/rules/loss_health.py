"""Rules between keys about verdicts on a loss that should fall."""

from pretrain.config.rule import Rule, Setup, unless
from pretrain.config.sections import DescentConfig


def _spikes_ignored(setup: Setup[DescentConfig]) -> bool:
    return setup.config.health.on_spike == "ignore"


RULES: tuple[Rule[DescentConfig], ...] = (
    unless(
        "max_skips needs skipping",
        "health.max_skips",
        lambda s: s.config.health.on_nonfinite != "skip",
        "has no effect with on_nonfinite stop; remove it, or set on_nonfinite: skip",
    ),
    *(
        unless(
            f"a spike {what} needs verdicts",
            f"health.spike_{what}",
            _spikes_ignored,
            "has no effect with on_spike ignore; remove it, or set on_spike to report or rollback",
        )
        for what in ("window", "threshold")
    ),
    unless(
        "max_rollbacks needs rollbacks",
        "health.max_rollbacks",
        lambda s: s.config.health.on_spike != "rollback",
        "has no effect unless on_spike is rollback; remove it, or set on_spike: rollback",
    ),
    Rule(
        name="rolling back needs checkpoints",
        key="health.on_spike",
        applies=lambda s: s.config.health.on_spike == "rollback",
        holds=lambda s: s.config.checkpoint.every is not None,
        message="rollback goes back to a checkpoint, and none is saved; set checkpoint.every",
    ),
)
