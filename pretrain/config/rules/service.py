"""Rules between keys that every run has: checkpoints, health, tracking, jobs.

Legal on purpose: `tracking.uri` with `enabled: false`, since `pretrain sync` reads it.
"""

from pretrain.config import derived
from pretrain.config.database_uri import unknown_option
from pretrain.config.rule import Rule, multiple_of, number, only_beside, only_with, unless
from pretrain.config.sections import Config
from pretrain.config.sections.slurm import seconds_of

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
LARGEST_SIGNAL = 65_535
"""sbatch stores the seconds of --signal in 16 bits."""

_IN_CONTAINER = ("slurm.container", "pyxis", "apptainer")
SLURM: tuple[Rule[Config], ...] = (
    unless(
        "tasks per node are those of a job on CPUs",
        "slurm.tasks_per_node",
        lambda s: s.config.slurm.gpus_per_node is not None,
        "has no effect with gpus_per_node, as each GPU has one process; remove one of them",
    ),
    only_with("an image is for a container", "slurm.container_image", *_IN_CONTAINER),
    only_with("mounts are for a container", "slurm.container_mounts", *_IN_CONTAINER),
    unless(
        "a chain is for jobs that are not requeued",
        "slurm.chain",
        lambda s: s.config.slurm.requeue,
        "has no effect with requeue true, as one job goes on until the run is done; set requeue: false",
    ),
    Rule(
        name="a container needs an image",
        key="slurm.container_image",
        applies=lambda s: s.config.slurm.container != "none",
        holds=lambda s: s.config.slurm.container_image is not None,
        message="required with container {slurm.container}",
    ),
    Rule(
        name="the signal comes within the job",
        key="slurm.signal_seconds",
        applies=lambda s: s.config.slurm.signal_seconds is not None,
        holds=lambda s: (
            (s.config.slurm.signal_seconds or 0)
            < (seconds_of(s.config.slurm.time) if s.config.slurm.time else LARGEST_SIGNAL)
        ),
        message=lambda s: (
            f"{s.config.slurm.signal_seconds} s before the limit is before the start of a job of "
            f"{s.config.slurm.time or f'at most {LARGEST_SIGNAL} s of warning'}"
        ),
    ),
)
"""Legal on purpose: `max_restarts` with `requeue: false`, as it also limits a chain."""

RULES: tuple[Rule[Config], ...] = (
    multiple_of(
        "kept checkpoints are ones that are written",
        "checkpoint.keep_every",
        number("checkpoint.every"),
        "{checkpoint.keep_every} is not a multiple of checkpoint.every {checkpoint.every}",
        applies=lambda s: bool(s.config.checkpoint.keep_every and s.config.checkpoint.every),
    ),
    only_beside("keeping checkpoints needs checkpoints", "checkpoint.keep_every", "checkpoint.every"),
    # Only the end of the run is saved without it.
    only_beside("asynchronous saving needs saves during the run", "checkpoint.async", "checkpoint.every"),
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
    *SLURM,
)
