"""A trainer whose every rank holds the whole model; ranks share the samples of a step."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from pretrain.config import derived
from pretrain.config.sections import CnnConfig, RnnConfig
from pretrain.descent_trainer import DescentTrainer, Gradient
from pretrain.gate import Gate
from pretrain.launch import World
from pretrain.replicated_adamw import ReplicatedAdamW

C = TypeVar("C", bound=CnnConfig | RnnConfig)
B = TypeVar("B")
"""A micro-batch."""

log = logging.getLogger(__name__)


class ReplicaTrainer(DescentTrainer[C, B]):
    """Model, optimizer and data of one run on this rank; a subclass says what is read and minimised."""

    optimizer: ReplicatedAdamW

    def __init__(self, config: C, world: World, gate: Gate | None, model: Module) -> None:
        super().__init__(config, world, gate)
        self.optimizer = ReplicatedAdamW(config.optimizer, model, world)
        micro_batches = derived.micro_batches(config, world.size)
        assert micro_batches is not None, "the rules between keys let no other batch through"
        self.micro_batches = micro_batches

    @property
    def layout_name(self) -> str:
        return f"DP{self.world.size}" if self.world.size > 1 else "one process"

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

    def backward(self, step: int, batches: list[B]) -> Gradient:
        loss, norm = self._backward(batches)
        return Gradient(loss, norm, norm)

    def _backward(self, batches: Sequence[B]) -> tuple[float, float]:
        """Mean loss of a global batch and the norm of its gradient, left in the parameters."""
        self.optimizer.forget_gradients()
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for index, batch in enumerate(batches):
            losses = self.losses(batch, index)
            (losses / self.units).backward()  # type: ignore[no-untyped-call]
            total += losses.detach().double()
        self.gate.reduce()
        dist.all_reduce(total)
        return float(total) / self.units, self.optimizer.reduce()

    @abstractmethod
    def validate(self, step: int) -> dict[str, float] | None:
        """The journal's line of a validation after `step` steps; None where the config has none."""

    def files(self) -> dict[str, Path]:
        return {}
