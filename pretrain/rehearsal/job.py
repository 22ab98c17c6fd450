"""A job at its full size, rehearsed in one process: some of its ranks are built and take a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import Config, TextConfig
from pretrain.distributed.world import DistContext
from pretrain.megatron import pipeline
from pretrain.rehearsal.events import Events, What
from pretrain.rehearsal.gpu import rehearsed_world
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import Trainer

C = TypeVar("C", bound=Config)
Build = Callable[[C, DistContext, StepSync, Checkpoint | None], Trainer[Any]]

FEW = 2
"""Samples in a micro-batch; batch normalisation needs two."""


def rehearse(config: C, size: int, build: Build[C], own: Checkpoint | None = None) -> None:
    """Build the last rank, take a step on the first and the last pipeline stage of a smaller job, and say so.

    Args:
        config: must fit the world (`config.rules`).
        size: ranks of the job.
        build: makes the trainer of the kind.
        own: the checkpoint that the run goes on from; it is not read.

    Raises:
        UserError: there is no C++ compiler (`pretrain.rehearsal.shim`).
    """
    whole: Any = config  # no class says which kinds of config have a batch, or a pipeline
    is_pipeline = hasattr(getattr(whole, "parallel", None), "pipeline")
    stages = whole.parallel.pipeline if is_pipeline else 1
    with _trainer(config, size - 1, size, build, own) as (trainer, _):
        layout = trainer.facts()["layout"]
    built = f"built for the last of {counted(size, 'rank')}"
    print(f"model: {layout}, {built}; the others are made of the same parts")
    small, fewer = _small_transformer(whole, size) if is_pipeline else (_few_samples(whole, size), size)
    for stage in sorted({0, stages - 1}):
        with _trainer(small, fewer - 1 if stage else 0, fewer, build, own) as (trainer, events):
            events.clear()
            trainer.step(0)
            waits = counted(events.of(What.SYNC).total(), "time")
        print(f"step: one of stage {stage}, with the code for GPUs; the host waits for its GPU {waits}")


@contextmanager
def _trainer(
    config: C, rank: int, size: int, build: Build[C], own: Checkpoint | None
) -> Iterator[tuple[Trainer[Any], Events]]:
    """The trainer of a rank, whose weights are neither drawn nor read."""
    with (
        rehearsed_world(rank, size) as (world, events),
        patch.object(pipeline, "initialise", lambda *_: None),
        patch.object(Checkpoint, "load", lambda *_: None),
        patch.object(Checkpoint, "require_all_read", lambda *_: None),
    ):
        yield build(config, world, StepSync(world), own), events


def _few_samples(config: Any, size: int) -> Any:
    """The same job with few samples, of one source: its weights need not suit so few."""
    few = min(FEW, config.batch.micro_size or FEW)
    batch = config.batch.model_copy(update={"micro_size": few, "global_size": few * size})
    sources = config.data.train
    train = sources[:1] if isinstance(sources, tuple) else sources
    return config.model_copy(update={"batch": batch, "data": config.data.model_copy(update={"train": train})})


def _small_transformer(config: TextConfig, size: int) -> tuple[Any, int]:
    """The same kind of layout, at most two of each that are alike: stages, chunks, replicas and samples.

    Returns:
        The config, and the ranks of the job.
    """
    parallel, few = config.parallel, min(FEW, config.batch.micro_size)
    stages = min(2, parallel.pipeline)
    chunks = parallel.virtual_pipeline and min(2, parallel.virtual_pipeline)
    replicas = min(2, size // config.replica_ranks)
    # As many micro-batches as there are stages fill a pipeline.
    batch = config.batch.model_copy(update={"micro_size": few, "global_size": few * stages * replicas})
    model = config.model.model_copy(update={"num_layers": stages * (chunks or 1)})
    update = {"virtual_pipeline": chunks, "pipeline": stages}
    small = config.model_copy(
        update={
            "batch": batch,
            "model": model,
            "parallel": parallel.model_copy(update=update),
            "schedule": config.schedule.model_copy(update={"batch_size": None}),
        }
    )
    return small, replicas * small.replica_ranks
