"""Checks that replicated ranks have the same bits: weights and optimizer states, compared by 64-bit hashes.

A hash is a sum of the tensor's 64-bit words, each times a random odd number, modulo 2^64 (multilinear
hashing; Carter & Wegman 1979). A change within one word always changes it, any other change does so except
with a chance of about 2^-63. It is computed on the tensor's device; only hashes are sent.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pretrain.checkpoint import ShardedTensor
from pretrain.distributed.gather import gather_pairs, gather_texts
from pretrain.distributed.ranks import some_ranks
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError

_WORDS = 1 << 18
"""Words that are hashed at once, so that their factors and products stay in a CPU's cache."""
_GPU_WORDS = 1 << 22
_SEED = 20_031
_BETWEEN = 6_364_136_223_846_793_005
"""Odd factor (Knuth's MMIX generator) that separates one run of words from the next."""
_SHOWN = 5


class ReplicaCheck:
    """Compares the shards of all ranks of one world."""

    def __init__(self, world: DistContext) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        words = _WORDS if world.device.type == "cpu" else _GPU_WORDS
        factors = torch.randint(-(2**63), 2**63 - 1, (words,), dtype=torch.int64, generator=generator) | 1
        self._factors = factors.to(world.device)
        self._world = world

    def __call__(self, step: int, pieces: Iterable[ShardedTensor]) -> None:
        """Compare; all ranks call this together.

        Args:
            step: optimizer steps done, for the message.
            pieces: the shards of this rank.

        Raises:
            HealthError: on every rank, if a shard that several ranks have differs; names tensor and ranks.
        """
        named = {shard.name: tensor_hash(shard.tensor, self._factors) for shard in pieces}
        hashes = torch.stack(list(named.values())).cpu() if named else torch.zeros(0, dtype=torch.int64)
        mine = dict(zip(named, hashes.tolist(), strict=True))
        keys = torch.tensor([_key(name) for name in named], dtype=torch.int64)
        different = _differing(gather_pairs(self._world, torch.stack([keys, hashes], dim=1)).numpy())
        if different:
            suspects = {name: value for name, value in mine.items() if _key(name) in different}
            words = [json.loads(text) for text in gather_texts(self._world, json.dumps(suspects))]
            raise HealthError(describe(step, words))


@torch.no_grad()
def tensor_hash(tensor: Tensor, factors: Tensor) -> Tensor:
    """Hash of a tensor's bits, a function of its content and type alone.

    Args:
        tensor: any shape and type.
        factors: int64 [words], odd, on the same device.

    Returns:
        int64 [], on the same device.
    """
    flat = tensor.detach().reshape(-1)
    size = flat.element_size()
    width = next(width for width in (8, 4, 2, 1) if flat.numel() * size % width == 0)
    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[width]
    if flat.storage_offset() * size % width or flat.data_ptr() % width:
        flat = flat.clone()
    words = flat.view(torch.uint8).view(kind) if flat.numel() else flat.to(torch.int64)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in torch.split(words, len(factors)):
        total = total * _BETWEEN + (part * factors[: len(part)]).sum()
    return total


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _differing(pairs: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> set[int]:
    """First elements that occur with several different second elements."""
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    same_name = ordered[1:, 0] == ordered[:-1, 0]
    return set(ordered[1:, 0][same_name & (ordered[1:, 1] != ordered[:-1, 1])].tolist())


def describe(step: int, held: Sequence[Mapping[str, int]]) -> str:
    """The message about replicas that differ.

    Args:
        step: optimizer steps done.
        held: for each rank, in order, hash by name of the tensors that differ.
    """
    names = sorted({name for words in held for name in words})
    lines = []
    for name in names[:_SHOWN]:
        groups: dict[int, list[int]] = {}
        for rank, words in enumerate(held):
            if name in words:
                groups.setdefault(words[name], []).append(rank)
        lines.append(f"\n  {name}: {_who(sorted(groups.values(), key=len))}")
    more = f"\n  and {len(names) - _SHOWN} more tensors" if len(names) > _SHOWN else ""
    return (
        f"after step {step}: ranks that should hold the same bits do not; no checkpoint was saved of this, "
        f"resuming goes on from the last good one:{''.join(lines)}{more}"
    )


def _who(groups: Sequence[Sequence[int]]) -> str:
    """Groups of ranks with equal bits, smallest group first: the minority is wrong, unless it is a tie."""
    if len(groups[-1]) > len(groups[-2]):
        odd = sorted(rank for group in groups[:-1] for rank in group)
        return f"{some_ranks(odd)} differ{'s' if len(odd) == 1 else ''} from {some_ranks(groups[-1])}"
    first, *others = sorted(groups, key=min)
    differ = f" differ{'s' if len(first) == 1 else ''} from "
    return some_ranks(first) + differ + " and from ".join(some_ranks(group) for group in others)
