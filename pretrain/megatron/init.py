"""Initial weights that depend only on the seed and the logical name, not on the layout.

Each logical tensor is drawn whole from a generator of its own, seeded by (run seed, name), and each rank
keeps its part. So every layout starts from the same bits, and a layer's weights do not change when another
layer is added.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.config.derived import linear_init_std
from pretrain.config.sections import TextModelConfig
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.sharding import parameter_shards
from pretrain.seeds import stream_seed

RESIDUAL_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")


def initialise(
    chunks: Sequence[torch.nn.Module], model: TextModelConfig, layout: ParallelDims, seed: int
) -> None:
    """Set every parameter.

    Norms are 1 (zero-centered ones 0), biases 0, embeddings normal with `init_std`, and matrices normal with
    `linear_init_std`. Matrices that write into the residual stream are smaller by sqrt(2 num_layers) (Radford
    et al. 2019, section 2.3).
    """
    for part in parameter_shards(chunks, layout):
        whole = initial_weight(part.key, part.global_shape, model, seed)
        box = tuple(slice(o, o + s) for o, s in zip(part.offset, part.shape, strict=True))
        part.view(part.parameter.data.view(-1)).copy_(whole[box])


def initial_weight(key: str, shape: Sequence[int], model: TextModelConfig, seed: int) -> Tensor:
    """The whole tensor of a logical name, as in `initialise`."""
    if key.endswith("bias"):
        return torch.zeros(1).expand(shape)
    if "norm" in key.rsplit(".", 2)[-2]:
        return torch.full((1,), 0.0 if getattr(model, "zero_centered_norm", False) else 1.0).expand(shape)
    std = model.init_std if key.endswith("embeddings.weight") else linear_init_std(model)
    if key.endswith(RESIDUAL_PROJECTIONS):
        std /= math.sqrt(2 * model.num_layers)
    generator = torch.Generator().manual_seed(stream_seed(seed, key))
    return torch.randn(tuple(shape), generator=generator) * std
