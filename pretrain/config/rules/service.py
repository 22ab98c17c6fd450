"""Rules between keys that every run has: checkpoints, health, tracking, jobs.

Legal on purpose: `tracking.uri` with `enabled: false`, since `pretrain sync` reads it.
"""

from pretrain.config import derived
from pretrain.config.database_uri import unknown_option
from pretrain.config.rule import Rule, multiple_of, number, unless
from pretrain.config.rules import slurm
from pretrain.config.sections import Config

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


RULES: tuple[Rule[Config], ...] = (
    multiple_of(
        "kept checkpoints are ones that are written",
        "checkpoint.keep_every",
        number("checkpoint.every"),
        "{checkpoint.keep_every} is not a multiple of checkpoint.every {checkpoint.every}",
        applies=lambda s: bool(s.config.checkpoint.keep_every and s.config.checkpoint.every),
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
        "comparing replicas needs several ranks",
        "health.replica_check_every",
        lambda s: s.world_size == 1,
        "has no effect with one process; remove it, or add processes",
    ),
    Rule(
        name="a profile is of steps that the run has",
        key="train.profile",
        applies=lambda s: s.config.train.profile is not None,
        holds=lambda s: s.config.run.steps >= derived.PROFILED_FROM - 1 + (s.config.train.profile or 0),
        message=lambda s: (
            f"{s.config.train.profile} steps from step {derived.PROFILED_FROM} on are more than run.steps "
            f"{s.config.run.steps}"
        ),
    ),
    Rule(
        name="MLflow takes a server or a database",
        key="tracking.uri",
        applies=lambda s: s.config.tracking.uri not in (None, "databricks"),
        holds=lambda s: (
            (s.config.tracking.uri or "").split(":")[0].split("+")[0] in TRACKING_SCHEMES
            and ":" in (s.config.tracking.uri or "")
        ),
        message=(
            "must be a server (http://host:port) or a database (sqlite:///path/mlflow.db), got "
            "'{tracking.uri}'; MLflow has given up plain folders"
        ),
    ),
    Rule(
        name="a database's options are ones that SQLite has",
        key="tracking.uri",
        applies=lambda s: s.config.tracking.uri is not None,
        holds=lambda s: unknown_option(s.config.tracking.uri or "") is None,
        message=lambda s: (
            f"'?' begins options, and SQLite has no '{unknown_option(s.config.tracking.uri or '')}'; in the "
            "name of a file write %3F for '?', and %25 for '%'"
        ),
    ),
    *slurm.RULES,
)
