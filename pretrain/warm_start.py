"""Weights of another run's checkpoint as the start of this one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pretrain.checkpoint import Checkpoint
from pretrain.checkpoint.piece import Group, Piece
from pretrain.checkpoint.tensors import DTYPES
from pretrain.health.gather import gather_texts
from pretrain.init_from import open_start
from pretrain.layout import Layout
from pretrain.models.logical import logical_parts


def take_weights(
    chunks: Sequence[Any], layout: Layout, checkpoint: Checkpoint, keep: Sequence[str]
) -> tuple[str, ...]:
    """Fill a model from a checkpoint of any layout and precision.

    Args:
        chunks: this rank's bare chunks, initialised.
        layout: this rank's place.
        checkpoint: where the weights are.
        keep: beginnings of the names of weights that stay as they are.

    Returns:
        Names of the weights on this rank that stay.

    Raises:
        UserError: a weight is not in the checkpoint, or has another shape.
    """
    there = set(checkpoint.keys())
    stay = []
    for part in logical_parts(chunks, layout):
        if part.key.startswith(tuple(keep)):
            stay.append(part.key)
            continue
        master = f"optimizer.master.{part.key}"  # what a bf16 weight was rounded from
        key = master if master in there else part.key
        read = torch.empty(part.shape, dtype=DTYPES[checkpoint.index[key].dtype] if key in there else None)
        group: Group = "weights" if key == part.key else "optimizer"
        checkpoint.load([Piece(key, part.global_shape, part.offset, part.shape, None, read, group, False)])
        part.view(part.parameter.data.view(-1)).copy_(read)
    return tuple(stay)


def start_from(
    source: str, chunks: Sequence[Any], layout: Layout, fingerprint: str, say: Callable[[str], None]
) -> None:
    """Fill a model with all weights of another run of its kind; all ranks call this together.

    Args:
        source: `model.init_from`.
        chunks: this rank's bare chunks.
        layout: this rank's place.
        fingerprint: of the tokenizer of the data.
        say: told of checkpoints that were passed over.

    Raises:
        UserError, IntegrityError: as `open_start`; or the run has other weights.
    """
    checkpoint = open_start(source, fingerprint, say)
    take_weights(chunks, layout, checkpoint, [])
    everyone = gather_texts(layout.world, "\n".join(part.key for part in logical_parts(chunks, layout)))
    checkpoint.require_all_read((key for keys in everyone for key in keys.split("\n")), "weights")
