"""ZeRO shards: this rank's part of a network's fp32 weights and Adam states, at any stage, as sharded
tensors.

Stage 0 holds whole tensors, the others ranges of their elements: stages 1 and 2 wherever the flat buffer of
all weights was cut, stage 3 an equal part of each tensor. Everything is a view, so loading a checkpoint
writes into place.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.checkpoint import Group, ShardedTensor
from pretrain.distributed.world import DistContext
from pretrain.gan.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class ZeroShard:
    """Elements [start, stop) of one parameter that this rank updates."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    master: Tensor
    """fp32 weights, [stop - start]."""
    moments: Mapping[str, Tensor]
    """Adam's states, [stop - start] each."""
    shared: bool
    """Whether all ranks hold the same: the whole tensor."""

    def piece(self, key: str, tensor: Tensor, group: Group, rank: int, size: int) -> ShardedTensor:
        """A tensor with the extent of this shard, as a sharded tensor named `key`."""
        if self.shared:
            # Ranks take turns, by name, to share the work of saving.
            owner = zlib.crc32(key.encode()) % size == rank
            return ShardedTensor.whole(key, tensor.view(self.shape), group, owner)
        zeros = tuple(0 for _ in self.shape)
        return ShardedTensor(key, self.shape, zeros, self.shape, (self.start, self.stop), tensor, group, True)


def zero_shards(engine: Engine) -> list[ZeroShard]:
    """This rank's ZeRO shards of a network, in the order of its parameters."""
    find = {0: _whole, 1: _flat_cut, 2: _flat_cut, 3: _equal_parts}[engine.stage]
    return list(find(engine))


def _states(engine: Engine, flat: Tensor, at: int, size: int) -> dict[str, Tensor]:
    return {name: engine.adam.state[flat][name].view(-1)[at : at + size] for name in MOMENTS}


def _whole(engine: Engine) -> Iterator[ZeroShard]:
    for name, parameter in engine.parameters:
        size = parameter.numel()
        states = _states(engine, parameter, 0, size)
        yield ZeroShard(
            name, tuple(parameter.shape), 0, size, parameter.detach().view(-1), states, shared=True
        )


def _flat_cut(engine: Engine) -> Iterator[ZeroShard]:
    for name, parameter in engine.parameters:
        mapping: Any = getattr(parameter, "_hp_mapping", None)
        # DeepSpeed maps only parameters of which this rank updates some elements.
        if mapping is None:
            continue
        flat = engine.adam.param_groups[mapping.param_group_index]["params"][0]
        at, size = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
        start = mapping.lp_fragment_address.start
        states = _states(engine, flat, at, size)
        master = flat.detach().view(-1)[at : at + size]
        yield ZeroShard(name, tuple(parameter.shape), start, start + size, master, states, shared=False)


def _equal_parts(engine: Engine) -> Iterator[ZeroShard]:
    rank = dist.get_rank()
    for name, parameter in engine.parameters:
        zero: Any = engine.zero
        partitioned: Any = parameter
        group, at, size = zero.grad_position[zero.get_param_id(parameter)]
        shape = tuple(partitioned.ds_shape)
        # The last parts are padded beyond the tensor's end.
        start, stop = rank * size, min((rank + 1) * size, prod(shape))
        if start >= stop:
            continue
        flat = zero.fp32_partitioned_groups_flat[group]
        states = _states(engine, flat, at, stop - start)
        master = flat.detach().view(-1)[at : at + stop - start]
        yield ZeroShard(name, shape, start, stop, master, states, shared=False)


@torch.no_grad()
def write_back(engine: Engine) -> None:
    """Update the weights of forward passes from the ZeRO shards; all ranks call this together."""
    zero: Any = engine.zero
    if engine.stage in (1, 2):
        zero.update_lp_params()
    elif engine.stage == 3:
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)


@torch.no_grad()
def assemble(engine: Engine, parts: Sequence[ZeroShard], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Whole tensors from all ranks' ZeRO shards; all ranks call this together.

    Args:
        tensors: one with the extent of each shard, such as its master.

    Returns:
        A tensor for each parameter; at stage 0 views of `tensors`.
    """
    found = list(zip(parts, tensors, strict=True))
    if engine.stage == 0:
        return {part.name: tensor.view(part.shape) for part, tensor in found}
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in engine.parameters}
    device = engine.parameters[0][1].device
    whole = {name: torch.zeros(prod(shape), device=device) for name, shape in shapes.items()}
    for part, tensor in found:
        whole[part.name][part.start : part.stop] = tensor
    # Each element is on one rank and 0 on the others, so the sum is exact.
    flat = torch.cat(list(whole.values()))
    dist.all_reduce(flat)
    pieces = torch.split(flat, [prod(shape) for shape in shapes.values()])
    return {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}


class Ema:
    """The average: one tensor for each ZeRO shard."""

    def __init__(self, parts: Sequence[ZeroShard], decay: float) -> None:
        self._masters = [part.master for part in parts]
        self._decay = decay
        self.tensors: list[Tensor] = [master.clone() for master in self._masters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step `step`, counted from 0."""
        # The decay is smaller in early steps, so that the initial weights are soon forgotten.
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.tensors, self._masters, 1 - decay)


class NetworkTensors:
    """An engine and this rank's ZeRO shards of its weights and states."""

    def __init__(self, engine: Engine, world: DistContext) -> None:
        self.engine = engine
        self.parts = zero_shards(engine)
        self._world = world

    def pieces(self) -> Iterator[ShardedTensor]:
        """fp32 weights, buffers and Adam states."""
        name = self.engine.name
        yield from self.pieces_of(name, [part.master for part in self.parts], "weights")
        yield from self._whole(name, self._buffers())
        for moment in MOMENTS:
            states = [part.moments[moment] for part in self.parts]
            yield from self.pieces_of(f"optimizer.{moment}.{name}", states, "optimizer")

    def pieces_of(self, prefix: str, tensors: Sequence[Tensor], group: Group) -> Iterator[ShardedTensor]:
        """One tensor per ZeRO shard, such as its master, as sharded tensors named `prefix.PARAMETER`."""
        rank, size = self._world.rank, self._world.size
        for part, tensor in zip(self.parts, tensors, strict=True):
            yield part.piece(f"{prefix}.{part.name}", tensor, group, rank, size)

    def computed(self) -> Iterator[ShardedTensor]:
        """The weights that forward passes use, at stages where every rank keeps all of them."""
        if self.engine.stage in (1, 2):
            weights = {name: parameter.detach() for name, parameter in self.engine.parameters}
            yield from self._whole(f"computed.{self.engine.name}", weights)

    def whole(self, tensors: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Every parameter and buffer, whole; all ranks call this together.

        Args:
            tensors: used in place of the masters of this rank's ZeRO shards.
        """
        mine = [part.master for part in self.parts] if tensors is None else tensors
        return assemble(self.engine, self.parts, mine) | self._buffers()

    def _buffers(self) -> dict[str, Tensor]:
        return dict(self.engine.module.named_buffers())

    def _whole(self, prefix: str, tensors: dict[str, Tensor]) -> Iterator[ShardedTensor]:
        rank, size = self._world.rank, self._world.size
        for name, tensor in tensors.items():
            key = f"{prefix}.{name}"
            owner = zlib.crc32(key.encode()) % size == rank
            yield ShardedTensor.whole(key, tensor, "weights", owner)
