"""A trainer in which every rank holds the whole model and the ranks share the samples of a step."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from pretrain.config import derived
from pretrain.config.sections import CnnConfig, RnnConfig
from pretrain.data.order import micro_batch_samples
from pretrain.distributed.world import DistContext
from pretrain.health.nonfinite import find_nonfinite
from pretrain.training.adamw import DataParallelAdamW
from pretrain.training.descent import DescentTrainer, Gradient
from pretrain.training.failed_step import MicroBatch, ReplicaStep
from pretrain.training.step_sync import StepSync

C = TypeVar("C", bound=CnnConfig | RnnConfig)
B = TypeVar("B")
"""A micro-batch."""

log = logging.getLogger(__name__)


class DataParallelTrainer(DescentTrainer[C, B]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and minimised."""

    optimizer: DataParallelAdamW

    def __init__(self, config: C, world: DistContext, gate: StepSync | None, model: Module) -> None:
        super().__init__(config, world, gate)
        self._model = model
        self.optimizer = DataParallelAdamW(config.optimizer, model, world)
        micro_batches = derived.micro_batches(config, world.size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches

    @property
    def layout_name(self) -> str:
        return f"DP{self.world.size}" if self.world.size > 1 else "one process"

    @property
    @abstractmethod
    def units(self) -> int:
        """Images or tokens of a step; there are as many labels."""

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

    def backward(self, step: int, batches: list[B]) -> Gradient:
        jumped = self.memory.jumped(step)
        self.reseed(step)
        loss, norm, local = self._backward(batches)

        def where() -> str:
            samples = [self.micro_batch_samples(step, index, jumped) for index in range(self.micro_batches)]
            return find_nonfinite(self._failed(step, samples, batches, local))

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
        self.gate.reduce()
        dist.all_reduce(total)
        # On a GPU, the one place in a step where the host waits for it.
        summed, norm = torch.stack([total, self.optimizer.reduce()]).tolist()
        return summed / self.units, norm, local

    def _mean_loss(self, batch: B, micro_batch: int) -> Tensor:
        """This micro-batch's share of the mean loss of the global batch."""
        return self.losses(batch, micro_batch) / self.units

    def _failed(
        self, step: int, samples: Sequence[range], batches: Sequence[B], local: Sequence[Tensor]
    ) -> ReplicaStep:
        """The step just computed, so that it can be replayed in search of the first non-finite number."""
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

    @abstractmethod
    def validate(self, step: int) -> dict[str, float] | None:
        """The journal line of a validation after `step` steps; None if the config has no validation data."""

    def files(self) -> dict[str, Path]:
        return {}
