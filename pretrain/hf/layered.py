"""A whole transformer in the memory of one of its layers.

Its forward pass is the real one, in which each layer in turn gets its weights just before it runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.config.derived import windows
from pretrain.config.sections import ParallelConfig, TextConfig
from pretrain.distributed.world import DistContext
from pretrain.megatron.model_spec import SpecOf
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.sharding import ParameterShard, parameter_shards

FIRST = ".layers.0."
Read = Callable[[str], Tensor]
"""A whole logical tensor by its name."""


class EveryLayer(torch.nn.Module):
    """Takes the place of a block's only layer, and runs as all of them."""

    def __init__(self, layer: torch.nn.Module, count: int, fill: Callable[[int], None]) -> None:
        super().__init__()
        self.layer, self.count, self.fill = layer, count, fill

    def forward(self, hidden_states: Tensor, **more: Any) -> tuple[Tensor, Any]:
        context = None
        for number in range(self.count):
            self.fill(number)
            hidden_states, context = self.layer(hidden_states=hidden_states, **more)
        return hidden_states, context


def build_layered(
    config: TextConfig,
    vocab_size: int,
    read: Read,
    world: DistContext,
    family: SpecOf,
) -> PipelineModel:
    """The model of a config in one process and in fp32, for scoring.

    Memory: the embedding and the heads, one layer, and the tensor that is being read.

    Args:
        config: the run's; its layout and precision do not matter.
        vocab_size: ids of the tokenizer, without padding.
        read: returns the weights.
        world: of one process.
        family: makes the model spec.
    """
    one = config.model.model_copy(update={"num_layers": 1})
    parallel = ParallelConfig()
    single = config.model_copy(update={"model": one, "precision": "fp32", "parallel": parallel})
    layout = build_parallel_dims(world, parallel)
    model = PipelineModel(single, layout, vocab_size, family(single, layout), training=False)
    parts = list(parameter_shards(model.chunks, model.layout))
    _fill([part for part in parts if FIRST not in part.key], read, 0)
    layer = [part for part in parts if FIRST in part.key]
    chunk: Any = model.chunks[0]
    block = chunk.encoder if hasattr(chunk, "encoder") else chunk.decoder
    attention = block.layers[0].self_attention.core_attention
    seen = windows(config.model)

    def fill(number: int) -> None:
        _fill(layer, read, number)
        attention.window = seen[number]

    every = EveryLayer(block.layers[0], config.model.num_layers, fill)
    block.layers = torch.nn.ModuleList([every])
    chunk.eval()
    return model


@torch.no_grad()
def _fill(parts: Sequence[ParameterShard], read: Read, number: int) -> None:
    """Fill parts with the weights of a layer, tensor by tensor."""
    last, whole = "", torch.empty(0)
    for part in parts:
        key = part.key.replace(FIRST, f".layers.{number}.")
        # Parts of one tensor follow one another, so each tensor is read only once.
        if key != last:
            last, whole = key, read(key)
        box = tuple(slice(o, o + s) for o, s in zip(part.offset, part.shape, strict=True))
        part.view(part.parameter.data.view(-1)).copy_(whole[box])
