"""A failed step of a model that every rank holds whole, kept so that it can be computed again."""

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
    """One micro-batch of this rank, which can be computed again."""

    samples: Sequence[int]
    loss: Tensor
    """Its loss in the step."""
    inputs: Sequence[tuple[str, Tensor]]
    """What the model is given beside the data, by name."""
    again: Callable[[], Tensor]
    """Computes its loss once more."""


@dataclass(frozen=True)
class ReplicaStep:
    """The `FailedStep` of a data-parallel model."""

    world: DistContext
    model: Module
    optimizer: DataParallelAdamW
    """Holds the summed gradients of the step."""
    micro_batches: Sequence[MicroBatch]
    reseed: Callable[[], None]
    """Sets the random streams as at the start of the step."""

    @property
    def samples(self) -> Sequence[Sequence[int]]:
        return [micro_batch.samples for micro_batch in self.micro_batches]

    def watched(self) -> Sequence[Watched]:
        return [watch(self.model)]

    def look(self) -> Evidence:
        losses = [each.samples for each in self.micro_batches if not is_finite(each.loss)]
        return look(self.world.rank, self._weights(), losses)

    def _weights(self) -> Iterable[Weight]:
        return (Weight(name, each, each.grad) for name, each in self.model.named_parameters())

    def replay(self, probe: Probe) -> None:
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
        """Every loss was finite in the replay; what is left to check is the sum of the gradients."""
        return not is_finite(self.optimizer.reduce())
