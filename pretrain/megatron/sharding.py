"""Logical tensors: what each local parameter is a part of, independent of any layout.

Initial weights, checkpoints and exports all speak of logical tensors: one is
`decoder.layers.5.mlp.linear_fc1.weight` with its full shape, wherever tensor, pipeline and virtual pipeline
parallelism have put its parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
)
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import TransformerLayer

from pretrain.megatron.layers.norm import WholeNorm
from pretrain.megatron.parallel_dims import ParallelDims

WORD_EMBEDDING = "embedding.word_embeddings.weight"
VOCABULARY = (WORD_EMBEDDING, "output_layer.")
"""Name prefixes of tensors with a row for each token: the embedding, and the output's weight and bias."""


@dataclass(frozen=True)
class ParameterShard:
    """A box of a logical tensor, and the range of a local parameter's elements that holds it.

    A parameter is one part, except where megatron stores two logical halves one after the other on each rank
    (gate and up projection of a gated feed-forward layer).
    """

    key: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    parameter: torch.nn.Parameter
    start: int
    """First element of this part in the flattened parameter."""
    primary: bool
    """Whether the tensor and pipeline coordinates of this rank make it the one that saves the part."""

    @property
    def size(self) -> int:
        """Number of elements in the box."""
        return int(torch.Size(self.shape).numel())

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """This part of a tensor that is flattened like the parameter."""
        return flat[self.start : self.start + self.size].view(self.shape)


def parameter_shards(chunks: Sequence[torch.nn.Module], layout: ParallelDims) -> Iterator[ParameterShard]:
    """Every part that this rank holds.

    Args:
        chunks: bare model chunks of this rank.

    Yields:
        Parts in the order of the parameters.
    """
    for chunk in chunks:
        names = _global_names(chunk)
        owners = {
            id(parameter): (module, local)
            for module in chunk.modules()
            for local, parameter in module.named_parameters(recurse=False)
        }
        gated = {
            id(parameter)
            for module in chunk.modules()
            if isinstance(module, MLP) and module.config.gated_linear_unit
            for parameter in module.linear_fc1.parameters()
        }
        for name, parameter in chunk.named_parameters():
            module, local = owners[id(parameter)]
            dimension = _split_dimension(module, local)
            halves = 2 if id(parameter) in gated else 1
            key, copy = _logical_name(names[name], parameter)
            yield from _split(key, parameter, dimension, halves, layout, copy)


def _global_names(chunk: torch.nn.Module) -> dict[str, str]:
    """Parameter name in the chunk -> the same name with the layer's number in the whole model."""
    prefixes = {
        f"{name}.": f"{name.rsplit('.', 1)[0]}.{module.layer_number - 1}."
        for name, module in chunk.named_modules()
        if isinstance(module, TransformerLayer)
    }
    names = {}
    for name, _ in chunk.named_parameters():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        names[name] = prefixes.get(prefix, "") + name[len(prefix) :]
    return names


def _logical_name(name: str, parameter: torch.nn.Parameter) -> tuple[str, bool]:
    """The logical name, and whether this is a copy (the tied embedding of the last stage), never saved."""
    if name == "output_layer.weight" and getattr(parameter, "shared_embedding", False):
        return WORD_EMBEDDING, True
    return name, False


def _split_dimension(module: torch.nn.Module, local: str) -> int | None:
    """Dimension along which tensor parallelism splits a parameter; None if every rank has all of it."""
    if isinstance(module, ColumnParallelLinear | VocabParallelEmbedding | WholeNorm):
        return 0
    if isinstance(module, RowParallelLinear):
        # The bias is added after the sum over ranks, so every rank has all of it.
        return 1 if local == "weight" else None
    return None


def _split(
    key: str,
    parameter: torch.nn.Parameter,
    dimension: int | None,
    halves: int,
    layout: ParallelDims,
    copy: bool,
) -> Iterator[ParameterShard]:
    shape = tuple(parameter.shape)
    if dimension is None:
        zero = (0,) * len(shape)
        yield ParameterShard(key, shape, zero, shape, parameter, 0, layout.tensor_rank == 0 and not copy)
        return
    tensor = layout.parallel.tensor
    full = tuple(size * tensor if axis == dimension else size for axis, size in enumerate(shape))
    part = tuple(size // halves if axis == dimension else size for axis, size in enumerate(shape))
    # Each half is split over the ranks on its own, so a rank's parameter is two boxes of the logical tensor.
    for half in range(halves):
        first = half * full[dimension] // halves + layout.tensor_rank * part[dimension]
        offset = tuple(first if axis == dimension else 0 for axis in range(len(shape)))
        start = half * parameter.numel() // halves
        yield ParameterShard(key, full, offset, part, parameter, start, not copy)
