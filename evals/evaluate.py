"""Scores a checkpoint of any kind, on any parallel dims."""

from pathlib import Path

from evals.request import EvalRequest, say
from evals.result import Result
from evals.scored import evaluation_of
from pretrain.checkpoint import resolve
from pretrain.config.load import read_config
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.kinds import kind_of
from pretrain.megatron.restore import RESOLVED_CONFIG


def evaluate(checkpoint: str, world: DistContext, request: EvalRequest) -> Result:
    """Score a checkpoint, all ranks together.

    checkpoint: run directory (its newest good checkpoint) or one step folder in it.

    Returns:
        The result, on every rank.

    Raises:
        UserError, IntegrityError: the arguments, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    path = Path(broadcast_from_rank0(world, lambda: str(resolve(checkpoint, say))))
    config = read_config(str(path / RESOLVED_CONFIG), saved=True).config
    evaluation = evaluation_of(config)
    why = f"on {kind_of(config).title}"
    request.images.refuse([name for name in request.images.given if name not in evaluation.options], why)
    if request.stride is not None and "stride" not in evaluation.options:
        raise UserError(f"--stride {request.stride} has no effect {why}; remove it")
    return evaluation.score(path, world, request)
