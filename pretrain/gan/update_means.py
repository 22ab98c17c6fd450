"""Update means: what an update reports, as means over its micro-batches and over all ranks.

They are summed over the ranks while the backward pass runs, so that no rank waits for them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.distributed.ranks import some_ranks
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError


class UpdateMeans:
    """The numbers of one update; the first of them is its loss.

    Args:
        world: all its ranks add, send and take together.
        micro_batches: of the update, over all ranks.
    """

    def __init__(self, loss: str, world: DistContext, micro_batches: int) -> None:
        self._loss, self._world = loss, world
        self._micro_batches = micro_batches
        self._sums: Tensor | None = None
        self._message = torch.zeros(0)
        self._sending: Any = None

    def add(self, *numbers: Tensor) -> None:
        """Add one micro-batch's numbers, each a scalar."""
        found = torch.stack([number.detach().double() for number in numbers])
        self._sums = found if self._sums is None else self._sums + found

    def send(self) -> None:
        """Begin the sum over ranks, after the last micro-batch's numbers."""
        assert self._sums is not None, "nothing was added"
        size = self._world.size
        mine = torch.zeros(size, dtype=torch.float64, device=self._sums.device)
        # The losses of all ranks travel with the sums, so that every rank can name the bad ones.
        mine[self._world.rank] = self._sums[0]
        self._message = torch.cat([self._sums / self._micro_batches, mine])
        if size > 1:
            self._sending = dist.all_reduce(self._message, async_op=True)

    def take(self) -> Sequence[float]:
        """Wait for the means, which are the same on every rank.

        Raises HealthError on every rank if the loss is not finite; the message names the ranks where it is
        not.
        """
        if self._sending is not None:
            self._sending.wait()
        found = self._message.tolist()
        means, losses = found[: -self._world.size], found[-self._world.size :]
        if not math.isfinite(means[0]):
            where = some_ranks([rank for rank, value in enumerate(losses) if not math.isfinite(value)])
            raise HealthError(f"{self._loss} is {means[0]} on {where}; the weights were not touched")
        return means
