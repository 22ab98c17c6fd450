"""A trainer in which every rank holds the whole model and the ranks share the samples of a step."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint
from pretrain.config import derived
from pretrain.config.sections import CnnConfig, RnnConfig
from pretrain.data.order import micro_batch_samples
from pretrain.distributed.world import DistContext
from pretrain.health.evidence import Evidence, Weight, look
from pretrain.health.nonfinite import find_nonfinite
from pretrain.health.probe import Probe, Watched, is_finite, watch
from pretrain.training.descent import DescentTrainer, Gradient
from pretrain.training.optimizer import DataParallelOptimizer
from pretrain.training.step_sync import StepSync

C = TypeVar("C", bound=CnnConfig | RnnConfig)
B = TypeVar("B")
"""A micro-batch."""

log = logging.getLogger(__name__)


class DataParallelTrainer(DescentTrainer[C, B]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and minimised."""

    optimizer: DataParallelOptimizer

    def __init__(
        self, config: C, world: DistContext, step_sync: StepSync | None = None, own: Checkpoint | None = None
    ) -> None:
        super().__init__(config, world, step_sync)
        micro_batches = derived.micro_batches(config, world.size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches
        self.whole_model = self.build_model().to(world.device)
        self.optimizer = DataParallelOptimizer(config.optimizer, self.whole_model, world)

    @abstractmethod
    def build_model(self) -> Module:
        """Open the data and build the model for them, with new weights."""

    @property
    def layout_name(self) -> str:
        return f"DP{self.world.size}" if self.world.size > 1 else "one process"

    @property
    @abstractmethod
    def units(self) -> int:
        """Images or tokens of a step; there are as many labels."""

    @property
    @abstractmethod
    def epoch(self) -> str:
        """What an epoch holds, in a few words."""

    @abstractmethod
    def batch(self, step: int, micro_batch: int, jumped: int = 0) -> B:
        """This rank's micro-batch of step `step`, both counted from 0, after a jump over `jumped` samples."""

    @abstractmethod
    def losses(self, batch: B, micro_batch: int) -> Tensor:
        """The sum of the losses of a micro-batch, in nats."""

    def reseed(self, step: int) -> None:
        """Set every random stream as a function of (seed, step, rank). A model may draw none."""

    def inputs(self, micro_batch: int) -> Sequence[tuple[str, Tensor]]:
        """What the model is given for a micro-batch beside its data, by name."""
        return ()

    def samples(self, step: int) -> range:
        first = self.samples_before(step)
        return range(first, first + self.config.batch.global_size)

    def samples_before(self, step: int) -> int:
        return step * self.config.batch.global_size + self.memory.jumped(step)

    def samples_between(self, first: int, stop: int) -> dict[int, range]:
        size = self.config.batch.global_size
        return {0: range(first * size, stop * size)}

    def units_until(self, steps: int) -> int:
        return steps * self.units

    def batches(self, step: int) -> list[B]:
        jumped = self.memory.jumped(step)
        return [self.batch(step, index, jumped) for index in range(self.micro_batches)]

    def micro_batch_samples(self, step: int, micro_batch: int, jumped: int = 0) -> range:
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

    def describe(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.whole_model.parameters())
        micro_batches = counted(self.micro_batches, "micro-batch")
        return (
            f"{self.layout_name}, {self.world.device}, {parameters:,} parameters, {self.epoch} an epoch, "
            f"{micro_batches} a step"
        )

    def backward(self, step: int, batches: list[B]) -> Gradient:
        jumped = self.memory.jumped(step)
        self.reseed(step)
        loss, norm, local = self._backward(batches)

        def where() -> str:
            samples = [self.micro_batch_samples(step, index, jumped) for index in range(self.micro_batches)]
            return find_nonfinite(ReplicaStep(self, step, samples, batches, local))

        return Gradient(loss, norm, norm, where=where)

    def _backward(self, batches: Sequence[B]) -> tuple[float, float, Sequence[Tensor]]:
        """Compute the gradient of a global batch and leave it in the parameters.

        Returns:
            The mean loss of the global batch, the norm of its gradient, and the sum of the losses of each of
            this rank's micro-batches.
        """
        self.optimizer.forget_gradients()
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        local = []
        for index, batch in enumerate(batches):
            losses = self.losses(batch, index)
            # Divided by the labels of the global batch, so that gradients only have to be summed: neither the
            # number of ranks nor the micro-batch size changes the result.
            (losses / self.units).backward()  # type: ignore[no-untyped-call]
            local.append(losses.detach().double())
            total += local[-1]
        self.step_sync.reduce()
        dist.all_reduce(total)
        # On a GPU, the one place in a step where the host waits for it.
        summed, norm = torch.stack([total, self.optimizer.reduce()]).tolist()
        return summed / self.units, norm, local


@dataclass(frozen=True)
class ReplicaStep:
    """The `FailedStep` of a data-parallel trainer: a step that it has just computed."""

    trainer: DataParallelTrainer[Any, Any]
    """Holds the summed gradients of the step."""
    step: int
    samples: Sequence[Sequence[int]]
    batches: Sequence[Any]
    losses: Sequence[Tensor]
    """The loss of each micro-batch in the step."""

    @property
    def world(self) -> DistContext:
        return self.trainer.world

    def watched(self) -> Sequence[Watched]:
        return [watch(self.trainer.whole_model)]

    def look(self) -> Evidence:
        losses = [
            numbers for numbers, loss in zip(self.samples, self.losses, strict=True) if not is_finite(loss)
        ]
        named = self.trainer.whole_model.named_parameters()
        return look(self.world.rank, [Weight(name, each, each.grad) for name, each in named], losses)

    def replay(self, probe: Probe) -> None:
        self.trainer.reseed(self.step)
        self.trainer.optimizer.forget_gradients()
        for index, batch in enumerate(self.batches):
            for what, tensor in self.trainer.inputs(index):
                probe.note_input(what, tensor, index)
            with probe.forward(index):
                loss = self.trainer.losses(batch, index) / self.trainer.units
            probe.note_loss(loss, index)
            loss.backward()  # type: ignore[no-untyped-call]

    def repeats(self) -> bool:
        """Every loss was finite in the replay; what is left to check is the sum of the gradients."""
        return not is_finite(self.trainer.optimizer.reduce())
