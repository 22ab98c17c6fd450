"""A network's tensors by their logical names: for checkpoints, comparisons and files."""

import zlib
from collections.abc import Iterator, Sequence

from torch import Tensor

from pretrain.checkpoint import Group, ShardedTensor
from pretrain.distributed.world import DistContext
from pretrain.gan.engine import Engine
from pretrain.gan.zero_shards import MOMENTS, assemble, zero_shards


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
