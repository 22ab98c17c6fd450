"""A failed update of one of the two networks, kept so that it can be computed again.

The networks are called as plain modules, because DeepSpeed's engines are in the middle of an update and would
sum gradients over ranks. The run ends with what is found, so nothing is restored.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.distributed.world import DistContext
from pretrain.gan.zero_shards import NetworkTensors
from pretrain.health.evidence import Evidence, Weight, look
from pretrain.health.probe import Probe, Watched, is_finite, watch

NAMES = ("the loss", "the penalty")
"""Names of the first numbers of a micro-batch."""


@dataclass(frozen=True)
class FailedUpdate:
    """The `FailedStep` of a GAN."""

    world: DistContext
    networks: Sequence[NetworkTensors]
    """In the order in which they run."""
    learner: NetworkTensors
    """The one that was being updated."""
    samples: Sequence[Sequence[int]]
    """Indices of the images of each micro-batch of this rank."""
    again: Sequence[Callable[[], Sequence[Tensor]]]
    """Compute the numbers of each micro-batch once more: the loss, and what it is made of."""
    together: bool
    """Whether batch normalisation runs over the images of all ranks, which spreads a bad number to all."""

    def watched(self) -> Sequence[Watched]:
        engines = [network.engine for network in self.networks]
        return [watch(engine.module, engine.name, place) for place, engine in enumerate(engines)]

    def look(self) -> Evidence:
        # Gradients are summed over ranks here, since each ZeRO stage leaves them in another place.
        return look(0 if self.together else self.world.rank, [*self._weights(), *self._summed()])

    def _weights(self) -> Iterator[Weight]:
        for network in self.networks:
            name = network.engine.name
            yield from (Weight(f"{name}.{part.name}", part.master) for part in network.parts)
            for shard in network.computed():
                yield Weight(shard.key.removeprefix("computed."), shard.tensor)

    def _summed(self) -> Iterator[Weight]:
        """The learner's weights with the gradient of the whole update; nothing if its norm is finite."""
        named = self.learner.engine.parameters
        gradients = [self._gradients(compute()[0]) for compute in self.again]
        flat = torch.stack([torch.cat([each.flatten().float() for each in one]) for one in gradients]).sum(0)
        dist.all_reduce(flat)
        flat /= self.world.size * len(self.again)
        if math.isfinite(float(flat.norm())):
            return
        parts = torch.split(flat, [each.numel() for each in gradients[0]])
        for (name, _), part in zip(named, parts, strict=True):
            yield Weight(f"{self.learner.engine.name}.{name}", torch.zeros(0), part)

    def _gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the learner's weights, not stored in `grad`, where DeepSpeed would use them."""
        parameters = [parameter for _, parameter in self.learner.engine.parameters]
        return torch.autograd.grad(loss, parameters)

    def replay(self, probe: Probe) -> None:
        for index, compute in enumerate(self.again):
            with probe.forward(index):
                numbers = compute()
            named = list(zip(NAMES, numbers, strict=False))
            # Reversed: the penalty is part of the loss, so it is named first.
            for what, number in reversed(named):
                if not is_finite(number):
                    probe.note_loss(number, index, what)
                    break
            self._gradients(numbers[0])

    def repeats(self) -> bool:
        return next(self._summed(), None) is not None
