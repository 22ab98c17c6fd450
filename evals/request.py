"""The request to evaluate one checkpoint, of any kind."""

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
    """Tokens by which a window moves on; None: a whole sequence, as in the trainer's validation."""
    data: tuple[str, ...] = ()
    """What to score instead of the run's validation data."""
    images: ImageEvalOptions = NO_IMAGE_OPTIONS
    """Options about images."""
    overrides: tuple[str, ...] = ()
    """`section.key=value` texts; the kind's `Evaluation.keys` says which."""
    layout_of: LayoutOf = build_parallel_dims
    """Creates the process groups, or returns existing ones."""


def say(line: str) -> None:
    """Print to stderr: stdout is for results."""
    print(line, file=sys.stderr)
