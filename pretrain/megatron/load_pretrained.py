"""Loads the weights of another run's checkpoint into a new run."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.sharded_tensor import Group, ShardedTensor
from pretrain.checkpoint.tensors import DTYPES
from pretrain.distributed.gather import gather_texts
from pretrain.megatron.init_from import InitFrom
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.sharding import parameter_shards

log = logging.getLogger(__name__)


def load_weights(
    chunks: Sequence[Any], layout: ParallelDims, checkpoint: Checkpoint, keep: Sequence[str]
) -> tuple[str, ...]:
    """Fill a model from a checkpoint of any layout and precision.

    Args:
        chunks: this rank's bare chunks, initialised.
        keep: name prefixes of weights that stay as they are.

    Returns:
        Names of the weights on this rank that stay.

    Raises:
        UserError: a weight is not in the checkpoint, or has another shape.
    """
    there = set(checkpoint.keys())
    stay = []
    for part in parameter_shards(chunks, layout):
        if part.key.startswith(tuple(keep)):
            stay.append(part.key)
            continue
        master = f"optimizer.master.{part.key}"  # fp32; the bf16 weight is this, rounded
        key = master if master in there else part.key
        read = torch.empty(part.shape, dtype=DTYPES[checkpoint.index[key].dtype] if key in there else None)
        group: Group = "weights" if key == part.key else "optimizer"
        checkpoint.load(
            [ShardedTensor(key, part.global_shape, part.offset, part.shape, None, read, group, False)]
        )
        part.view(part.parameter.data.view(-1)).copy_(read)
    return tuple(stay)


def load_pretrained(
    start: InitFrom, chunks: Sequence[Any], layout: ParallelDims, anew: Sequence[str] = ()
) -> None:
    """Fill a model with the weights of another run of its kind; all ranks call this together.

    Args:
        start: the checkpoint that weights come from; nothing is done if it is the run's own, which is loaded
            later.
        chunks: this rank's bare chunks, initialised.
        anew: name prefixes of weights that stay as they were drawn.

    Raises:
        UserError: the run has other weights.
    """
    if start.is_own:
        return
    stay = load_weights(chunks, layout, start.checkpoint, anew)
    everyone = gather_texts(layout.world, "\n".join(part.key for part in parameter_shards(chunks, layout)))
    start.checkpoint.require_all_read((key for keys in everyone for key in keys.split("\n")), "weights")
    new = f"; drawn anew on this rank: {', '.join(stay) or 'none'}" if anew else ""
    log.info("weights from %s%s", start.checkpoint.path, new)
