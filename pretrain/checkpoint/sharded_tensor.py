"""`ShardedTensor`: one rank's shard of one logical tensor; the only form in which the trainer passes tensors
to this package."""

from dataclasses import dataclass
from typing import Literal

import torch

from pretrain.checkpoint.geometry import Extent, Shape

Group = Literal["weights", "optimizer"]
GROUPS: tuple[Group, ...] = ("weights", "optimizer")


@dataclass(frozen=True)
class ShardedTensor:
    """A box of a logical tensor, or a range of the elements of such a box, and the tensor with its values."""

    key: str
    """Logical name, independent of parallel dims, such as `decoder.layers.3.mlp.linear_fc1.weight`."""
    global_shape: Shape
    """Shape of the whole logical tensor."""
    offset: Shape
    """Where the box begins in the logical tensor."""
    shape: Shape
    """Shape of the box."""
    flat: tuple[int, int] | None
    """Half-open range of the box's row-major elements, if the rank holds only these; the tensor is then
    1-D."""
    tensor: torch.Tensor
    """Read on save; filled in place on load. Shape `shape`, or [stop - start] with `flat`."""
    group: Group
    """Decides the file, so that evaluation can read the weights alone."""
    owner: bool
    """This rank writes the shard on save; exactly one replica does."""

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.key}: group {self.group!r} is none of {', '.join(GROUPS)}")
        if problem := self.extent.problem(self.global_shape):
            raise ValueError(f"{self.key}: {problem}")
        expected = self.shape if self.flat is None else (self.extent.size,)
        if tuple(self.tensor.shape) != expected:
            raise ValueError(
                f"{self.key}: tensor has shape {list(self.tensor.shape)}, the shard {list(expected)}"
            )

    @property
    def extent(self) -> Extent:
        """What the shard covers of the logical tensor."""
        return Extent(self.offset, self.shape, self.flat)

    @property
    def name(self) -> str:
        """Name in a file: the key, and the box and range if the shard is not the whole tensor."""
        if self.shape == self.global_shape and self.flat is None:
            return self.key
        return f"{self.key}{self.extent.describe()}"

    @classmethod
    def whole(
        cls, key: str, tensor: torch.Tensor, group: Group = "weights", owner: bool = True
    ) -> "ShardedTensor":
        """The shard of a rank that holds all of a logical tensor."""
        shape = tuple(tensor.shape)
        return cls(key, shape, tuple(0 for _ in shape), shape, None, tensor, group, owner)
