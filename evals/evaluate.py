"""Scores a checkpoint of any kind, on any parallel dims."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.images.options import NO_IMAGE_OPTIONS, ImageEvalOptions, fields_of
from evals.request import EvalRequest, LayoutOf, say
from evals.result import Result
from evals.scored import evaluation_of
from pretrain.checkpoint import resolve
from pretrain.config.load import read_config
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.kind import Evaluation
from pretrain.kinds import kind_of
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.restore import RESOLVED_CONFIG


def evaluate(
    checkpoint: str,
    world: DistContext,
    *,
    stride: int | None = None,
    data: Sequence[str] = (),
    images: ImageEvalOptions = NO_IMAGE_OPTIONS,
    overrides: Sequence[str] = (),
    layout_of: LayoutOf = build_parallel_dims,
) -> Result:
    """Score a checkpoint, all ranks together.

    Args:
        checkpoint: run directory (its newest good checkpoint) or one step folder in it.
        stride: tokens by which a window moves on; None: a whole sequence, as in the trainer's validation.
        data: what to score instead of the run's validation data.
        images: options about images.
        overrides: `section.key=value` texts; the kind's `Evaluation.keys` says which.
        layout_of: creates the process groups, or returns existing ones.

    Returns:
        The result, on every rank.

    Raises:
        UserError, IntegrityError: the arguments, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    path = Path(broadcast_from_rank0(world, lambda: str(resolve(checkpoint, say))))
    config = read_config(str(path / RESOLVED_CONFIG), saved=True).config
    evaluation = evaluation_of(config)
    request = EvalRequest(stride, tuple(data), images, tuple(overrides), layout_of)
    _refuse_useless(request, evaluation, f"on {kind_of(config).title}")
    return evaluation.score(path, world, request)


def _refuse_useless(request: EvalRequest, evaluation: Evaluation[Any], why: str) -> None:
    """Raise UserError for the first given option that has no effect."""
    request.images.refuse([name for name in fields_of(request.images) if name not in evaluation.options], why)
    if request.stride is not None and "stride" not in evaluation.options:
        raise UserError(f"--stride {request.stride} has no effect {why}; remove it")
