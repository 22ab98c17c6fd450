"""Whether the copies of an asynchronous save fit into the free memory of the machines.

If they did not, the kernel would kill a rank in the middle of a save. All ranks get the same answer, so that
all save in the same way.
"""

import json
import socket
from collections import defaultdict
from collections.abc import Sequence

import torch

from pretrain.checkpoint.protocol import Team
from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.checkpoint.write import readable
from pretrain.run.memory import available_memory

SHARE = 0.9
"""Usable share of the free memory; the rest is for other allocations of the process."""


def missing_room(shards: Sequence[ShardedTensor], team: Team) -> str:
    """Ask all ranks, which call this together.

    Args:
        shards: what this rank is to copy.
        team: all ranks; its keys are for this question alone.

    Returns:
        What does not fit, and where; empty if everything fits.

    Raises:
        CoordinationError: a rank does not answer.
    """
    size = sum(_memory_of_copy(shard.tensor) for shard in shards)
    team.put(f"room/{team.rank}", json.dumps([socket.gethostname(), size, available_memory()]).encode())
    if team.rank == 0:
        team.put("room", _judge([json.loads(team.get(f"room/{rank}")) for rank in range(team.world_size)]))
    return team.get("room").decode()


def _memory_of_copy(tensor: torch.Tensor) -> int:
    """Bytes; torch allocates pinned memory, which copies from a GPU need, in powers of two."""
    size = tensor.numel() * tensor.element_size()
    return 1 << (size - 1).bit_length() if tensor.is_cuda and size else size


def _judge(answers: Sequence[tuple[str, int, int | None]]) -> bytes:
    """The answer, from (host, bytes, bytes available) of every rank."""
    wanted: dict[str, int] = defaultdict(int)
    left: dict[str, int] = {}
    for host, size, available in answers:
        wanted[host] += size
        if available is not None:
            left[host] = min(available, left.get(host, available))
    for host, size in wanted.items():
        if host in left and size > SHARE * left[host]:
            return f"{readable(size)} of copies for {readable(left[host])} of free memory on {host}".encode()
    return b""
