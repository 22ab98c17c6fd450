"""What the run loop in `pretrain.commands.train` asks of a trainer, whatever it trains.

A trainer is a function of (config, world): every rank builds its own, and all ranks call all methods in the
same order. It is given the loop's `StepSync` and passes it once in every step, with `fetch`, before it
changes anything: that is where all ranks agree on signals.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.config.sections import Config
from pretrain.distributed.world import DistContext
from pretrain.health.replicas import ReplicaCheck
from pretrain.training.step_sync import StepSync

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; the same on every rank."""

    loss: float
    """The loss that is minimised, over the global batch."""
    metrics: Mapping[str, float]
    """The journal line: `loss`, `lr`, `grad_norm` and the like, and `tokens` or `images` so far."""
    units: int
    """Tokens or images of the step, for throughput."""
    updated: bool
    """False if a number was not finite, or if the loss was a spike to roll back from."""
    spike: bool
    """Whether the loss was far above the ones before."""


class Trainer(ABC, Generic[C]):
    """Model, optimizer and data of one run on this rank."""

    UNIT: str
    """What a run counts: "images" or "tokens"."""

    def __init__(self, config: C, world: DistContext, step_sync: StepSync | None) -> None:
        self.config: C = config
        self.world = world
        self.step_sync = step_sync or StepSync(world)
        self._replica_check = ReplicaCheck(world)

    @abstractmethod
    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises HealthError if a verdict ends the run, and Interrupted, from the step sync, on a signal.
        """

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """Throughput of a step that took `seconds`, for the journal: images or tokens per second, MFU."""
        return {f"{self.UNIT}_per_second": result.units / seconds}

    @abstractmethod
    def validate(self, step: int) -> dict[str, float] | None:
        """The journal line of a validation after `step` steps; None if the config has no validation data."""

    def check_replicas(self, step: int) -> None:
        """Compare what ranks share after `step` steps. Raises HealthError naming what differs."""
        self._replica_check(step, self.pieces())

    @property
    def may_roll_back(self) -> bool:
        """Whether a spike goes back to a checkpoint; then one is saved before the first step."""
        return False

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint, jumping over the samples up to step `spike`. Returns the steps done."""
        raise NotImplementedError("called only if the trainer may roll back")

    @abstractmethod
    def pieces(self) -> Iterable[ShardedTensor]:
        """This rank's shards of every tensor that a checkpoint holds."""

    @abstractmethod
    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint records besides tensors; `SUSPECT_SINCE` among it while updates are skipped."""

    def files(self) -> Mapping[str, bytes | Path]:
        """Files and folders that every checkpoint includes, by their name in it."""
        return {}

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> int:
        """Restore everything from a checkpoint of any layout. Returns the steps done.

        Raises UserError if the checkpoint is of another model or other data.
        """

    def go_back(self, step: int, later: Checkpoint) -> None:
        """Called after loading a checkpoint of `step` steps because `later` was saved while updates were
        skipped.

        Raises HealthError if the run has gone back there too often.
        """
        raise NotImplementedError("called only if the trainer skips updates")

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What the run's status and the MLflow tags record in addition to the config."""

    @abstractmethod
    def describe(self) -> str:
        """Layout, device and sizes, on one line for the log."""
