"""What one step of a run is whose every rank holds the whole model: batches in, gradients, a verdict, an
update out.

Everything that decides the next step is in the checkpoint or follows from the step number: samples are a
function of it. So a resumed run is the uninterrupted one. Ranks share the samples of a step.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from data_tools.typed import natural
from pretrain.any_trainer import StepResult
from pretrain.checkpoint import SUSPECT_SINCE, Checkpoint, Piece
from pretrain.config import derived
from pretrain.config.sections import CnnConfig, RnnConfig
from pretrain.data.order import micro_batch_samples
from pretrain.gate import Gate
from pretrain.health.judge import go_back, judge, refuse_nonfinite, require_rollbacks_left
from pretrain.health.nonfinite import find_nonfinite
from pretrain.health.pulse import Phase
from pretrain.health.replicas import ReplicaCheck
from pretrain.health.spikes import Memory
from pretrain.launch import World
from pretrain.replica_step import MicroBatch, ReplicaStep
from pretrain.replicated_adamw import ReplicatedAdamW
from pretrain.schedule import learning_rate

C = TypeVar("C", CnnConfig, RnnConfig)
B = TypeVar("B")
"""A micro-batch."""

log = logging.getLogger(__name__)


class ReplicaTrainer(ABC, Generic[C, B]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and minimised."""

    UNIT: str
    """What a run counts: images or tokens."""

    def __init__(self, config: C, world: World, gate: Gate | None, model: Module) -> None:
        self.config: C = config
        self.world, self._model = world, model
        self.gate = gate or Gate(world)
        self.optimizer = ReplicatedAdamW(config.optimizer, model, world)
        micro_batches = derived.micro_batches(config, world.size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches
        self.memory = Memory()
        self._replica_check = ReplicaCheck(world)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the training data."""

    @property
    @abstractmethod
    def validation_fingerprint(self) -> str:
        """Of what is validated on."""

    @property
    @abstractmethod
    def units(self) -> int:
        """Images or tokens of a step, which are as many labels."""

    @abstractmethod
    def batch(self, step: int, micro_batch: int, jumped: int = 0) -> B:
        """This rank's micro-batch of step `step`, both from 0, after a jump over so many samples."""

    @abstractmethod
    def losses(self, batch: B, micro_batch: int) -> Tensor:
        """The sum of the losses of a micro-batch, in nats."""

    def reseed(self, step: int) -> None:
        """Set every random stream as a function of (seed, step, rank); nothing where none is drawn from."""

    def inputs(self, micro_batch: int) -> Sequence[tuple[str, Tensor]]:
        """What the model begins a micro-batch with beside its data, by name."""
        return ()

    def step(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0.

        Raises:
            HealthError: the loss or a gradient is not finite, and the config says to stop. Weights are as
                before the step then.
        """
        jumped = self.memory.jumped(step)
        batches = self.gate.fetch(lambda: self.batches(step))
        self.reseed(step)
        loss, norm, local = self._backward(batches)
        verdict = judge(self.config, self.memory, loss, norm)
        rate = learning_rate(self.config, step)
        if verdict.update:
            self.gate.mark(Phase.UPDATE)
            self.optimizer.update(rate, norm)
        window = derived.spike_window(self.config)
        self.memory = self.memory.after(loss, updated=verdict.update, window=window)
        if not verdict.finite:
            samples = [self.samples(step, index, jumped) for index in range(self.micro_batches)]
            where = find_nonfinite(self._failed(step, samples, batches, local))
            size = self.config.batch.global_size
            first = step * size + jumped
            what = (
                f"step {step + 1} (samples {first} to {first + size - 1}): loss {loss}, gradient norm {norm}"
            )
            refuse_nonfinite(self.config, self.memory, what, where)
        metrics = {"loss": loss, "grad_norm": norm, "lr": rate, self.UNIT: (step + 1) * self.units}
        if self.memory.rollbacks:
            metrics["rollbacks"] = self.memory.rollbacks
        return StepResult(loss, metrics, self.units, verdict.update, verdict.spike)

    def batches(self, step: int) -> list[B]:
        """This rank's micro-batches of step `step`, counted from 0."""
        jumped = self.memory.jumped(step)
        return [self.batch(step, index, jumped) for index in range(self.micro_batches)]

    def samples(self, step: int, micro_batch: int, jumped: int = 0) -> range:
        """Global sample indices of this rank's micro-batch of step `step`, both from 0."""
        batch = self.config.batch
        return micro_batch_samples(
            step=step,
            micro_batch=micro_batch,
            rank=self.world.rank,
            size=self.world.size,
            global_size=batch.global_size,
            micro_size=batch.micro_size,
            skipped=jumped,
        )

    def _backward(self, batches: Sequence[B]) -> tuple[float, float, Sequence[Tensor]]:
        """Mean loss of a global batch, the norm of its gradient, left in the parameters, and the sum of the
        losses of each of this rank's micro-batches."""
        self.optimizer.forget_gradients()
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        local = []
        for index, batch in enumerate(batches):
            losses = self.losses(batch, index)
            (losses / self.units).backward()  # type: ignore[no-untyped-call]
            local.append(losses.detach().double())
            total += local[-1]
        self.gate.reduce()
        dist.all_reduce(total)
        return float(total) / self.units, self.optimizer.reduce(), local

    def _mean_loss(self, batch: B, micro_batch: int) -> Tensor:
        """This micro-batch's share of the mean loss of the global batch."""
        return self.losses(batch, micro_batch) / self.units

    def _failed(
        self, step: int, samples: Sequence[range], batches: Sequence[B], local: Sequence[Tensor]
    ) -> ReplicaStep:
        """The step just computed, for a second look."""
        micro_batches = [
            MicroBatch(
                samples=numbers,
                loss=loss,
                inputs=self.inputs(index),
                again=partial(self._mean_loss, batch, index),
            )
            for index, (numbers, batch, loss) in enumerate(zip(samples, batches, local, strict=True))
        ]
        return ReplicaStep(self.world, self._model, self.optimizer, micro_batches, lambda: self.reseed(step))

    def speed(self, result: StepResult, seconds: float) -> dict[str, float]:
        """Images or tokens per second of the whole world."""
        return {f"{self.UNIT}_per_second": result.units / seconds}

    @abstractmethod
    def validate(self, step: int) -> dict[str, float] | None:
        """The journal's line of a validation after `step` steps; None where the config has none."""

    def check_replicas(self, step: int) -> None:
        """Compare what ranks share after `step` steps; raises HealthError naming what differs."""
        self._replica_check(step, self.pieces())

    @property
    def may_roll_back(self) -> bool:
        """With health.on_spike: rollback."""
        return self.config.health.on_spike == "rollback"

    def roll_back(self, checkpoint: Checkpoint, spike: int) -> int:
        """Go back to a checkpoint and jump over the samples up to step `spike`, from 0; returns steps done.

        Raises HealthError after `health.max_rollbacks` rollbacks.
        """
        before = self.memory
        require_rollbacks_left(self.config, before, spike)
        done = self.load(checkpoint)
        size = self.config.batch.global_size
        self.memory = before.back_to(done, spike, {0: range(done * size, (spike + 1) * size)}, self.memory)
        skipped = self.memory.skipped[-1]
        log.warning(
            "rolled back to %s; samples %d to %d are jumped over",
            checkpoint.path,
            skipped.first,
            skipped.stop - 1,
        )
        return done

    def pieces(self) -> Iterator[Piece]:
        """Every tensor that a checkpoint holds, this rank's parts."""
        return self.optimizer.pieces()

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        return {
            "step": step,
            "samples": step * self.config.batch.global_size + self.memory.jumped(step),
            self.UNIT: step * self.units,
            "updates": self.optimizer.updates,
            "data_fingerprint": self.fingerprint,
            "health": self.memory.to_json(),
            SUSPECT_SINCE: self.memory.suspect_since(step),
        }

    def files(self) -> dict[str, Path]:
        """None."""
        return {}

    def load(self, checkpoint: Checkpoint) -> int:
        """Take over weights, optimizer state and step; returns the steps done.

        Raises:
            UserError: it is of another model or other data.
        """
        checkpoint.require_data(self.fingerprint, "images" if self.UNIT == "images" else "data")
        checkpoint.require_all_read(piece.key for piece in self.pieces())
        checkpoint.load(self.pieces())
        self.optimizer.set_updates(checkpoint.part("updates", natural))
        self.memory = checkpoint.part("health", Memory.from_json)
        return checkpoint.step

    def go_back(self, step: int, later: Checkpoint) -> None:
        """As `AnyTrainer.go_back`."""
        self.memory = go_back(self.memory, step, later)

    def facts(self) -> dict[str, str]:
        """What the run's status and MLflow's tags say beside the config."""
        return {
            "layout": f"DP{self.world.size}" if self.world.size > 1 else "one process",
            "device": self.world.device.type,
            "data_fingerprint": self.fingerprint,
            "validation_fingerprint": self.validation_fingerprint,
        }
