"""What is asked of an evaluation of one checkpoint, whatever its kind."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from evals.images.options import NO_IMAGE_OPTIONS, ImageEvalOptions
from pretrain.config.sections import ParallelConfig
from pretrain.distributed.world import DistContext
from pretrain.megatron.parallel_dims import ParallelDims, build_parallel_dims

LayoutOf = Callable[[DistContext, ParallelConfig], ParallelDims]


@dataclass(frozen=True)
class EvalRequest:
    """The options of `pretrain eval`."""

    stride: int | None = None
    """Tokens that a window moves on; None: a whole sequence, as in the trainer's validation."""
    data: tuple[str, ...] = ()
    """What to score in place of the run's validation data."""
    images: ImageEvalOptions = NO_IMAGE_OPTIONS
    """Options about images."""
    overrides: tuple[str, ...] = ()
    """`section.key=value` texts; the kind's `Evaluation.keys` says which."""
    layout_of: LayoutOf = build_parallel_dims
    """Makes the groups of ranks, or hands out those that there are."""


def say(line: str) -> None:
    """What is no result goes to stderr."""
    print(line, file=sys.stderr)
