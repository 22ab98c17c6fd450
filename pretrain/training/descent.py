"""What all trainers that minimise one loss have in common: batches in, gradients, a verdict, an update out.

The next step depends on the weights, the optimizer's state, the step number and the memory of earlier
verdicts, and on nothing else: samples, learning rate and random streams are functions of these. So a resumed
run is identical to an uninterrupted one. `pretrain.commands.train` drives the whole run.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from data_tools.typed import natural
from pretrain.checkpoint import SUSPECT_SINCE, Checkpoint, ShardedTensor
from pretrain.config import derived
from pretrain.config.sections import DescentConfig
from pretrain.distributed.gather import gather_texts
from pretrain.distributed.world import DistContext
from pretrain.health.phase_timer import Phase
from pretrain.health.spikes import SpikeHistory
from pretrain.health.step_verdict import go_back, judge, refuse_nonfinite, require_rollbacks_left
from pretrain.training.schedule import learning_rate
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import StepResult, Trainer

C = TypeVar("C", bound=DescentConfig)
B = TypeVar("B")
"""A micro-batch."""

log = logging.getLogger(__name__)


class AnyOptimizer(Protocol):
    """What takes a step once a verdict allows it."""

    updates: int
    """Updates done."""

    def update(self, learning_rate: float, gradient_norm: float, /) -> None:
        """Clip gradients of this norm and take a step."""

    def pieces(self) -> Iterator[ShardedTensor]:
        """This rank's shards of the weights and of the optimizer state."""


@dataclass(frozen=True)
class Gradient:
    """What the batches of a step gave. The gradient itself is in the parameters."""

    loss: float
    """Mean over the global batch."""
    norm: float
    """2-norm of the gradient."""
    judged: float
    """What the verdict looks at: the same number on every rank, not finite if any rank's norm is not."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further numbers for the journal line of the step."""
    where: Callable[[], str] = lambda: ""
    """Says where a number first became non-finite; called only when one did."""


class DescentTrainer(Trainer[C], Generic[C, B]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and minimised."""

    optimizer: AnyOptimizer
    fingerprint: str
    """Of the training data."""
    validation_fingerprint: str

    def __init__(self, config: C, world: DistContext, step_sync: StepSync | None) -> None:
        super().__init__(config, world, step_sync)
        self.memory = SpikeHistory()

    @property
    @abstractmethod
    def layout_name(self) -> str: ...

    @abstractmethod
    def batches(self, step: int) -> list[B]:
        """This rank's micro-batches of step `step`, counted from 0."""

    @abstractmethod
    def backward(self, step: int, batches: list[B]) -> Gradient:
        """The loss of a step and its gradient, summed over ranks."""

    @abstractmethod
    def samples(self, step: int) -> range:
        """Positions of the samples of a step in the order that it draws from."""

    @abstractmethod
    def samples_before(self, step: int) -> int:
        """Samples of all orders, trained on or jumped over, before those of `step`."""

    @abstractmethod
    def samples_between(self, first: int, stop: int) -> Mapping[int, range]:
        """Positions of the samples of steps [first, stop) in each order, in a run without jumps."""

    @abstractmethod
    def units_until(self, steps: int) -> int:
        """Images or tokens that the first `steps` steps train on."""

    def step(self, step: int) -> StepResult:
        """As `Trainer.step`; after a HealthError the weights are as they were before the step."""
        batches = self.step_sync.fetch(lambda: self.batches(step))
        found = self.backward(step, batches)
        # The verdict comes before the update, from numbers that are the same on every rank, so that all ranks
        # update or none does.
        verdict = judge(self.config, self.memory, found.loss, found.judged)
        rate = learning_rate(self.config, step)
        if verdict.update:
            self.step_sync.mark(Phase.UPDATE)
            self.optimizer.update(rate, found.norm)
        window = derived.spike_window(self.config)
        self.memory = self.memory.after(found.loss, updated=verdict.update, window=window)
        if not verdict.finite:
            samples, numbers = self.samples(step), f"loss {found.loss}, gradient norm {found.judged}"
            what = f"step {step + 1} (samples {samples.start} to {samples.stop - 1}): {numbers}"
            refuse_nonfinite(self.config, self.memory, what, found.where())
        units = self.units_until(step + 1)
        metrics = {"loss": found.loss, **found.metrics, "grad_norm": found.norm, "lr": rate, self.UNIT: units}
        if self.memory.rollbacks:
            metrics["rollbacks"] = self.memory.rollbacks
        return StepResult(found.loss, metrics, units - self.units_until(step), verdict.update, verdict.spike)

    @property
    def may_roll_back(self) -> bool:
        return self.config.health.on_spike == "rollback"

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint and jump over the samples seen since then.

        Args:
            checkpoint: the last good one of this run.
            spike: step, counted from 0, whose loss was a spike; its samples are the last ones jumped over.

        Returns:
            Steps done at the checkpoint.

        Raises:
            HealthError: the run has rolled back `health.max_rollbacks` times.
        """
        before = self.memory
        require_rollbacks_left(self.config, before, spike)
        done = self.load(checkpoint)
        self.memory = before.back_to(done, spike, self.samples_between(done, spike + 1), self.memory)
        log.warning(
            "rolled back to %s; the samples of steps %d to %d are jumped over",
            checkpoint.path,
            done + 1,
            spike + 1,
        )
        return done

    def pieces(self) -> Iterator[ShardedTensor]:
        return self.optimizer.pieces()

    def facts(self) -> dict[str, str]:
        return {
            "layout": self.layout_name,
            "device": self.world.device.type,
            "data_fingerprint": self.fingerprint,
            "validation_fingerprint": self.validation_fingerprint,
        }

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint records besides its tensors. Images or tokens are those that were trained on."""
        return {
            "step": step,
            "samples": self.samples_before(step),
            self.UNIT: self.units_until(step),
            "updates": self.optimizer.updates,
            "data_fingerprint": self.fingerprint,
            "health": self.memory.to_json(),
            SUSPECT_SINCE: self.memory.suspect_since(step),
        }

    def load(self, checkpoint: Checkpoint) -> int:
        checkpoint.require_data(self.fingerprint, "images" if self.UNIT == "images" else "data")
        load_all(checkpoint, self.pieces(), self.world)
        self.optimizer.updates = checkpoint.part("updates", natural)
        self.memory = checkpoint.part("health", SpikeHistory.from_json)
        return checkpoint.step

    def go_back(self, step: int, later: Checkpoint) -> None:
        self.memory = go_back(self.memory, step, later)


def load_all(checkpoint: Checkpoint, pieces: Iterator[ShardedTensor], world: DistContext) -> None:
    """Load these sharded tensors. Raises UserError if the checkpoint has tensors that no rank asks for."""
    here = list(pieces)
    # A rank knows only its own tensors, so what nobody asks for is known only after all keys are gathered.
    everyone = gather_texts(world, "\n".join(sorted({tensor.key for tensor in here})))
    checkpoint.require_all_read(key for keys in everyone for key in keys.split("\n"))
    checkpoint.load(here)
