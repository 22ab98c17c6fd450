"""A fake run: a job's model and one step of it, in one process that can be any rank of the world.

Transformers take no memory: tensors have shapes but no values, and what depends on values is not tried.
Models that every rank holds whole are small enough for real values.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pretrain.config.sections import Config, TextConfig
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError
from pretrain.megatron.model_spec import FamilyOf
from pretrain.megatron.optimizer import Optimizer
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.plan.fake_world import Kind, fake_world
from pretrain.plan.samples import local_micro_batch
from pretrain.plan.trace import shallow
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import Trainer

W = TypeVar("W", bound=Config)

FEW = 2
"""Samples of a rank in a step with real values; batch normalisation needs two."""


def rehearse(config: TextConfig, vocab_size: int, size: int, family: FamilyOf) -> None:
    """Build a transformer's ranks and run steps of its schedule, and say so.

    Args:
        config: must fit the world (`config.rules`).
        vocab_size: ids of the tokenizer, without padding.
        family: makes the model spec of a rank. For chat it is a GPT's: the chat loss picks tokens by values.
    """
    pipeline = config.parallel.pipeline
    for stage in range(pipeline):
        # The other ranks of a stage have the same shapes: other shards of the same tensors, or other samples.
        with fake_world(stage * size // pipeline, size, Kind.meta) as world:
            layout = build_parallel_dims(world, config.parallel)
            model = PipelineModel(config, layout, vocab_size, family(config, layout), training=True)
            Optimizer(config, model)
    print(f"model: built for {pipeline} of {size} ranks; the others have the same shapes")
    # The first, one in the middle and the last; the others in the middle are alike.
    for stage in sorted({0, min(1, pipeline - 1), pipeline - 1}):
        _run_schedule(config, vocab_size, stage, family)
        print(f"schedule: one step of stage {stage}, forward and backward")


def _run_schedule(config: TextConfig, vocab_size: int, stage: int, family: FamilyOf) -> None:
    """Run one step of a stage, with as many micro-batches as there are stages.

    Each chunk has one layer, and there are two chunks at most, since more would be alike.
    """
    config = shallow(config, 1, config.parallel.virtual_pipeline and 2)
    size, pipeline = config.replica_ranks, config.parallel.pipeline
    with fake_world(stage * size // pipeline, size, Kind.fake) as world:
        layout = build_parallel_dims(world, config.parallel)
        model = PipelineModel(config, layout, vocab_size, family(config, layout), training=True)
        model.rehearse([local_micro_batch(model)] * pipeline)


def take_step(config: W, size: int, build: Callable[[W, DistContext, StepSync], Trainer]) -> None:
    """Take the first step of rank 0 with real values and few samples, and say so.

    Args:
        config: must fit the world (`config.rules`).
        build: makes the trainer.
    """
    whole: Any = config  # no class says which kinds of config have a batch
    few = min(FEW, whole.batch.micro_size or FEW)
    batch = whole.batch.model_copy(update={"micro_size": few, "global_size": few * size})
    config = config.model_copy(update={"batch": batch})
    with fake_world(0, size, Kind.real) as world:
        trainer = build(config, world, StepSync(world))
        print(f"model: built for {trainer.facts()['layout']}; ranks are alike")
        # A verdict on numbers means nothing: those of the other ranks are missing.
        with suppress(HealthError):
            trainer.step(0)
    print(f"step: one of rank 0, with {few} samples of its own")
