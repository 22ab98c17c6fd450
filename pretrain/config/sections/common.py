"""What every run has, whatever it trains."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config.sections.resume import may_change, must_agree
from pretrain.config.sections.section import LARGEST_COUNT, Count, Name, PathText, Section
from pretrain.config.sections.slurm import SlurmConfig


class RunConfig(Section):
    """What a run is called, how long it goes on and where it lives."""

    dir: Annotated[PathText, may_change("a run folder may be moved")]
    """Run folder: config, metrics, logs and checkpoints. Relative to the working directory."""
    seed: Annotated[int, must_agree("decides the initial weights, the order of samples and dropout")] = Field(
        1234, ge=0, lt=2**32
    )
    """Seed of the initial weights, the order of samples and dropout."""
    steps: Annotated[
        Count, may_change("as long as the learning rates of steps that are done do not depend on it")
    ]
    """Optimizer steps of the whole run, counted from the first start, not from a resume."""
    resume: Annotated[Literal["auto", "never"], may_change("says how to start, not what to train")] = "auto"
    """auto: go on from the newest good checkpoint in `run.dir`. never: start at step 0; refused where
    the folder holds checkpoints already."""


class ModelConfig(Section):
    """What is trained."""

    RESUME = must_agree("the checkpoint holds another model")

    kind: str
    """Model family; it decides which other keys there are."""


class TrainConfig(Section):
    """What a job finds out about its own speed."""

    RESUME = may_change("says what to measure, not what to train")

    profile: Count | None = None
    """Steps to profile in each job, from its fifth on: a trace of every rank and a table of where the time
    went, in RUN/profile; null: none."""


class CheckpointConfig(Section):
    """When checkpoints are written and which are kept. The last step is always saved."""

    RESUME = may_change("says when to save, not what to train")

    every: Count | None = None
    """Steps between checkpoints; null: only at the end of the run."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_every: Count | None = None
    """Also keep every checkpoint whose step is a multiple of this, for ever; a multiple of `every`."""
    async_: bool = Field(False, alias="async")
    """Write in the background while training goes on."""
    max_failures: Count = 3
    """Saves in a row that may fail before the run stops."""


class EvalConfig(Section):
    """Validation during training."""

    RESUME = may_change("says when to validate and what to draw, not what to train")

    every: Count | None = None
    """Steps between validations; null: only at the end, where there is validation data."""


class TrackingConfig(Section):
    """MLflow. metrics.jsonl in the run folder is written in any case."""

    RESUME = may_change("says where metrics go, not what to train")

    enabled: bool = True
    """Send metrics to MLflow while training; when false, `pretrain sync` can do so later."""
    uri: Name | None = None
    """MLflow tracking URI, a server or a database, for training and `pretrain sync`; null: sqlite in the run
    folder."""
    experiment: Name = "pretrain"
    """MLflow experiment."""


class HealthConfig(Section):
    """What to do about replicas that drift apart and ranks that hang. A stopped run ends with exit code 4."""

    RESUME = may_change("says what to do about bad numbers, not what to train")

    hang_timeout: float | None = Field(None, ge=0, le=LARGEST_COUNT)
    """Seconds that one phase of a step may last, or that a rank may give no sign of life, before the run
    stops; null: 20 usual steps, at least 120; 0: for ever. Start-up, first steps and saves may last longer
    (half an hour, an hour)."""
    join_timeout: float = Field(600, gt=0, le=LARGEST_COUNT)
    """Seconds that ranks wait for one another at the start before the run stops and says who has not come."""
    replica_check_every: int | None = Field(None, ge=0, le=LARGEST_COUNT)
    """Steps between checks that ranks hold the same bits of what they share, weights and optimizer; null:
    before each checkpoint alone, 0: never. Any number above 0 adds to the check before each checkpoint."""


class Config(Section):
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    precision: Annotated[Literal["fp32", "bf16"], must_agree("changes the arithmetic in mid-run")] = "fp32"
    """Arithmetic of forward and backward; master weights and optimizer states are fp32 in both."""
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    tracking: TrackingConfig = TrackingConfig()
    health: HealthConfig = HealthConfig()
    slurm: SlurmConfig = SlurmConfig()

    @property
    def replica_ranks(self) -> int:
        """Ranks that hold one replica of the model."""
        return 1
