"""Rules between keys that every run has: checkpoints, health, tracking.

What is legal on purpose: `tracking.uri` with `enabled: false`, since `pretrain sync` reads it.
"""

from pretrain.config.rule import Rule, Setup, multiples_near, unless
from pretrain.config.sections import Config

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def _spikes_ignored(setup: Setup[Config]) -> bool:
    return setup.config.health.on_spike == "ignore"


RULES: tuple[Rule[Config], ...] = (
    Rule(
        name="kept checkpoints are ones that are written",
        key="checkpoint.keep_every",
        applies=lambda s: bool(s.config.checkpoint.keep_every and s.config.checkpoint.every),
        holds=lambda s: (s.config.checkpoint.keep_every or 0) % (s.config.checkpoint.every or 1) == 0,
        message=lambda s: (
            f"{s.config.checkpoint.keep_every} is no multiple of checkpoint.every {s.config.checkpoint.every}"
        ),
        remedies={
            "checkpoint.keep_every": lambda s: multiples_near(
                s.config.checkpoint.keep_every or 1, s.config.checkpoint.every or 1
            )
        },
    ),
    unless(
        "keeping checkpoints needs checkpoints",
        "checkpoint.keep_every",
        lambda s: s.config.checkpoint.every is None,
        "has no effect without checkpoint.every; set checkpoint.every, or remove it",
    ),
    unless(
        "asynchronous saving needs saves during the run",
        "checkpoint.async",
        lambda s: s.config.checkpoint.every is None,
        "has no effect without checkpoint.every, as only the end of the run is saved; set checkpoint.every",
    ),
    unless(
        "max_skips needs skipping",
        "health.max_skips",
        lambda s: s.config.health.on_nonfinite != "skip",
        "has no effect with on_nonfinite stop; remove it, or set on_nonfinite: skip",
    ),
    unless(
        "a spike window needs verdicts",
        "health.spike_window",
        _spikes_ignored,
        "has no effect with on_spike ignore; remove it, or set on_spike to report or rollback",
    ),
    unless(
        "a spike threshold needs verdicts",
        "health.spike_threshold",
        _spikes_ignored,
        "has no effect with on_spike ignore; remove it, or set on_spike to report or rollback",
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
        message=lambda s: "rollback goes back to a checkpoint, and none is saved; set checkpoint.every",
    ),
    unless(
        "comparing replicas needs several ranks",
        "health.replica_check_every",
        lambda s: s.world_size == 1,
        "has no effect with one process; remove it, or add processes",
    ),
    Rule(
        name="MLflow takes a server or a database",
        key="tracking.uri",
        applies=lambda s: s.config.tracking.uri not in (None, "databricks"),
        holds=lambda s: (
            (s.config.tracking.uri or "").split(":")[0].split("+")[0] in TRACKING_SCHEMES
            and ":" in (s.config.tracking.uri or "")
        ),
        message=lambda s: (
            f"must be a server (http://host:port) or a database (sqlite:///path/mlflow.db), got "
            f"'{s.config.tracking.uri}'; MLflow has given up plain folders"
        ),
    ),
)
