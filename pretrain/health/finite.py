"""Checks that everything to be saved is finite: one look at every tensor, so that no checkpoint stores the
fault."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pretrain.checkpoint import ShardedTensor
from pretrain.distributed.gather import gather_texts
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError
from pretrain.health.replicas import ranks


def require_finite(world: DistContext, step: int, pieces: Iterable[ShardedTensor]) -> None:
    """Refuse to save numbers that are not finite; all ranks call this together.

    Args:
        step: optimizer steps done, for the message.
        pieces: the shards of this rank; it checks those that it owns.

    Raises:
        HealthError: on every rank, if a shard of any rank is not finite; names the first one and the ranks.
    """
    bad = (shard.name for shard in pieces if shard.owner and not _is_finite(shard.tensor))
    found = gather_texts(world, next(bad, ""))
    if where := [rank for rank, name in enumerate(found) if name]:
        raise HealthError(
            f"after step {step}: {found[where[0]]} on {ranks(where)} holds numbers that are not finite; no "
            "checkpoint was saved of this, resuming goes on from the last good one"
        )


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    """From minimum and maximum, which takes no extra memory: with a NaN, both are NaN."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
