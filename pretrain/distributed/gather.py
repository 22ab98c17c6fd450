"""Gathers texts and pairs of numbers from every rank on every rank, for messages that name ranks."""

import torch
import torch.distributed as dist

from pretrain.distributed.collectives import largest
from pretrain.distributed.world import DistContext


def gather_texts(world: DistContext, text: str) -> list[str]:
    """The texts of all ranks, in rank order; all ranks call this together."""
    if world.size == 1:
        return [text]
    raw = text.encode()
    mine = torch.zeros(largest(world, len(raw)) + 8, dtype=torch.uint8)
    mine[:8] = torch.tensor([len(raw)], dtype=torch.int64).view(torch.uint8)
    mine[8 : 8 + len(raw)] = torch.frombuffer(bytearray(raw or b"\0"), dtype=torch.uint8)[: len(raw)]
    everyone = [torch.empty_like(mine) for _ in range(world.size)]
    dist.all_gather(everyone, mine)
    return [bytes(each[8 : 8 + int(each[:8].view(torch.int64))].numpy()).decode() for each in everyone]


def gather_pairs(world: DistContext, pairs: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, one after another.

    Args:
        pairs: int64 [n, 2] on the CPU, n may differ between ranks.

    Returns:
        int64 [sum of n, 2].
    """
    if world.size == 1:
        return pairs
    most = largest(world, len(pairs))
    mine = torch.zeros(most + 1, 2, dtype=torch.int64)
    mine[0, 0] = len(pairs)
    mine[1 : 1 + len(pairs)] = pairs
    everyone = [torch.empty_like(mine) for _ in range(world.size)]
    dist.all_gather(everyone, mine)
    return torch.cat([each[1 : 1 + int(each[0, 0])] for each in everyone])
