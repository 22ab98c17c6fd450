"""Rules between keys about verdicts on a loss that should fall."""

from pretrain.config.rule import Rule, only_with
from pretrain.config.sections import DescentConfig

_JUDGED = ("health.on_spike", "report", "rollback")

RULES: tuple[Rule[DescentConfig], ...] = (
    only_with("max_skips needs skipping", "health.max_skips", "health.on_nonfinite", "skip"),
    only_with("a spike window needs verdicts", "health.spike_window", *_JUDGED),
    only_with("a spike threshold needs verdicts", "health.spike_threshold", *_JUDGED),
    only_with("max_rollbacks needs rollbacks", "health.max_rollbacks", "health.on_spike", "rollback"),
    Rule(
        name="rolling back needs checkpoints",
        key="health.on_spike",
        applies=lambda s: s.config.health.on_spike == "rollback",
        holds=lambda s: s.config.checkpoint.every is not None,
        message="rollback goes back to a checkpoint, and none is saved; set checkpoint.every",
    ),
)
