"""What the run loop in `train.py` asks of a trainer, whatever it trains.

A trainer is a function of (config, world): every rank builds its own, and all methods are called by all ranks
in the same order. It is given the loop's `Gate`, and passes it once in every step, with `fetch`, before it
changes anything: there all ranks agree on signals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.sharded_tensor import ShardedTensor


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every rank."""

    loss: float
    """What is minimised, over the global batch."""
    metrics: Mapping[str, float]
    """The journal's line: `loss`, `lr`, `grad_norm` and the like, and `tokens` or `images` so far."""
    units: int
    """Tokens or images that the step was about, for rates."""
    updated: bool
    """False where a number was not finite or the loss a spike to roll back from."""
    spike: bool
    """Whether the loss was far above the ones before."""


class Trainer(Protocol):
    """Model, optimizer and data of one run on this rank."""

    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises HealthError where a verdict ends the run; Interrupted, from the gate, on a signal.
        """

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """What a step that took `seconds` says in the journal: tokens or images per second, MFU."""

    def validate(self, step: int) -> dict[str, float] | None:
        """The journal's line of a validation after `step` steps; None where the config has none."""

    def check_replicas(self, step: int) -> None:
        """Compare what ranks share after `step` steps; raises HealthError naming what differs."""

    @property
    def may_roll_back(self) -> bool:
        """Whether a spike goes back to a checkpoint, so that the first is saved before the first step."""

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint, jumping over the samples up to step `spike`; returns the steps done."""

    def pieces(self) -> Iterable[ShardedTensor]:
        """Every tensor that a checkpoint holds, this rank's parts."""

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors; `SUSPECT_SINCE` among it while updates are skipped."""

    def files(self) -> Mapping[str, bytes | Path]:
        """Files and folders that every checkpoint takes along, by their name in it."""

    def load(self, checkpoint: Checkpoint) -> int:
        """Take over everything from a checkpoint of any layout; returns the steps done.

        Raises UserError where it is of another model or other data.
        """

    def go_back(self, step: int, later: Checkpoint) -> None:
        """After a checkpoint of `step` steps was loaded since `later` was saved while updates were skipped.

        Raises HealthError where the run has gone back there too often.
        """

    def facts(self) -> dict[str, str]:
        """What the run's status and MLflow's tags say beside the config."""

    def describe(self) -> str:
        """Layout, device and sizes, on one line for the log."""
