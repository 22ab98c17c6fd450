"""What runs have that minimise one loss along a schedule."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pretrain.config.optimizers import ADAMW, OPTIMIZERS, published
from pretrain.config.sections.common import Config, HealthConfig
from pretrain.config.sections.resume import OPTIMIZER, may_change, must_agree
from pretrain.config.sections.section import LARGEST_COUNT, Count, Section

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]


class LossHealthConfig(HealthConfig):
    """What to do about numbers that are not finite, losses that jump, replicas that drift apart and ranks
    that hang. A run that is stopped ends with exit code 4."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient on any rank: stop the run, or skip the update."""
    max_skips: Count | None = None
    """Skipped updates in a row before the run stops; null: 10. Only with on_nonfinite: skip."""
    on_spike: Literal["ignore", "report", "rollback"] = "report"
    """A loss far above its recent values: say so in log and journal, or go back to the last good checkpoint
    and jump over the samples seen since, those of the spike included. rollback needs `checkpoint.every`."""
    spike_window: int | None = Field(None, ge=8, le=10_000)
    """Losses that a loss is compared with, and steps before the first verdict; null: 64."""
    spike_threshold: float | None = Field(None, gt=0)
    """A spike is above the window's median by more than this many standard deviations, estimated from the
    median absolute deviation; null: 10."""
    max_rollbacks: Count | None = None
    """Rollbacks in the whole run before a spike stops it; null: 3. Only with on_spike: rollback."""


class OptimizerConfig(Section):
    """How a gradient becomes an update of the weights."""

    RESUME = OPTIMIZER

    kind: OptimizerName = Field(ADAMW, description=published())
    lr: float = Field(gt=0)
    """Peak learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled weight decay of matrices; biases and norms have none."""
    clip_grad: float = Field(1.0, ge=0)
    """Global gradient norm to clip to; 0: no clipping."""


class ScheduleConfig(Section):
    """Learning rate over steps: linear warm-up, then a decay to `min_lr`."""

    RESUME = must_agree("the learning rate would jump")

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; wsd is warm-up, stable, decay (Hu et al. 2024)."""
    warmup_steps: int = Field(0, ge=0, le=LARGEST_COUNT)
    """Steps of linear warm-up from 0."""
    min_lr: float | None = Field(None, ge=0)
    """Learning rate at the end of the decay; null: a tenth of `optimizer.lr`. Not with kind: constant."""
    decay_steps: Annotated[
        Count | None, may_change("as long as the learning rates of steps that are done stay")
    ] = None
    """cosine, linear: the step at which `min_lr` is reached, null: `run.steps`. wsd: length of the final
    decay, null: a tenth of `run.steps`. Not with kind: constant."""


class DescentConfig(Config):
    """A run that minimises one loss."""

    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    health: LossHealthConfig = LossHealthConfig()
