"""A failed step of a model that every rank holds whole, to be computed again."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import Module

from pretrain.distributed.world import DistContext
from pretrain.health.evidence import Evidence, Weight, look
from pretrain.health.probe import Probe, Watched, is_finite, watch
from pretrain.training.adamw import DataParallelAdamW


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of this rank, to be computed again."""

    samples: Sequence[int]
    loss: Tensor
    """Its loss in the step."""
    inputs: Sequence[tuple[str, Tensor]]
    """What else it begins with, by name."""
    again: Callable[[], Tensor]
    """Its loss, computed once more."""


@dataclass(frozen=True)
class ReplicaStep:
    """As `FailedStep`."""

    world: DistContext
    model: Module
    optimizer: DataParallelAdamW
    """With the summed gradients of the step."""
    micro_batches: Sequence[MicroBatch]
    reseed: Callable[[], None]
    """Sets the random streams as at the start of the step."""

    @property
    def samples(self) -> Sequence[Sequence[int]]:
        """As `FailedStep.samples`."""
        return [micro_batch.samples for micro_batch in self.micro_batches]

    def watched(self) -> Sequence[Watched]:
        """As `FailedStep.watched`."""
        return [watch(self.model)]

    def look(self) -> Evidence:
        """As `FailedStep.look`."""
        losses = [each.samples for each in self.micro_batches if not is_finite(each.loss)]
        return look(self.world.rank, self._weights(), losses)

    def _weights(self) -> Iterable[Weight]:
        return (Weight(name, each, each.grad) for name, each in self.model.named_parameters())

    def replay(self, probe: Probe) -> None:
        """As `FailedStep.replay`."""
        self.reseed()
        self.optimizer.forget_gradients()
        for index, micro_batch in enumerate(self.micro_batches):
            for what, tensor in micro_batch.inputs:
                probe.note_input(what, tensor, index)
            with probe.forward(index):
                loss = micro_batch.again()
            probe.note_loss(loss, index)
            loss.backward()  # type: ignore[no-untyped-call]

    def repeats(self) -> bool:
        """As `FailedStep.repeats`; every loss was finite in the replay, whose gradients are summed now."""
        return not math.isfinite(self.optimizer.reduce())
