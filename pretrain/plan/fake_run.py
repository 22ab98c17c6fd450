"""A fake run: a job's model and one step of it, in one process that can be any rank of the world.

Transformers take no memory: tensors have shapes but no values, and what depends on values is not tried.
Models that every rank holds whole are small enough for real values.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pretrain.config.sections import TextConfig
from pretrain.data.dataset import TrainingDataset
from pretrain.errors import HealthError
from pretrain.megatron.model_spec import ModelSpec, SpecOf
from pretrain.megatron.optimizer import Optimizer
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.plan.fake_world import Kind, fake_world
from pretrain.plan.trace import local_micro_batch, shallow
from pretrain.training.step_sync import StepSync
from pretrain.training.trainer import Trainer

FEW = 2
"""Samples of a rank in a step with real values; batch normalisation needs two."""


def run_transformer(spec_of: SpecOf, config: TextConfig, data: TrainingDataset, size: int) -> None:
    """Build a transformer's ranks and run steps of its schedule, and say so.

    Args:
        spec_of: makes the model spec of a rank.
        config: must fit the world (`config.rules`).
        data: opened.
    """
    vocab_size, pipeline = data.vocab_size, config.parallel.pipeline
    for stage in range(pipeline):
        # The other ranks of a stage have the same shapes: other shards of the same tensors, or other samples.
        with fake_world(stage * size // pipeline, size, Kind.meta) as world:
            layout = build_parallel_dims(world, config.parallel)
            model = PipelineModel(config, layout, vocab_size, spec_of(config, layout), training=True)
            Optimizer(config, model)
    print(f"model: built for {pipeline} of {size} ranks; the others have the same shapes")
    # The first, one in the middle and the last; the others in the middle are alike.
    for stage in sorted({0, min(1, pipeline - 1), pipeline - 1}):
        _run_schedule(config, vocab_size, stage, spec_of)
        print(f"schedule: one step of stage {stage}, forward and backward")


def run_finetuning(
    spec_of: Callable[..., ModelSpec[Any, Any]], config: TextConfig, data: TrainingDataset, size: int
) -> None:
    """As `run_transformer`, for a model spec that also follows from the data."""
    run_transformer(lambda config, layout: spec_of(config, layout, data), config, data, size)


def _run_schedule(config: TextConfig, vocab_size: int, stage: int, spec_of: SpecOf) -> None:
    """Run one step of a stage, with as many micro-batches as there are stages.

    Each chunk has one layer, and there are two chunks at most, since more would be alike.
    """
    config = shallow(config, 1, config.parallel.virtual_pipeline and 2)
    size, pipeline = config.replica_ranks, config.parallel.pipeline
    with fake_world(stage * size // pipeline, size, Kind.fake) as world:
        layout = build_parallel_dims(world, config.parallel)
        model = PipelineModel(config, layout, vocab_size, spec_of(config, layout), training=True)
        model.rehearse([local_micro_batch(model)] * pipeline)


def take_step(
    build: Callable[..., Trainer[Any]], config: Any, data: object, size: int, *, one_source: bool = False
) -> None:
    """Take the first step of rank 0 with real values and few samples, and say so.

    Args:
        build: makes the trainer.
        config: of any kind whose ranks hold the whole model; must fit the world (`config.rules`).
        data: opened; the trainer opens it again, for these samples.
        one_source: train on the first source alone, as so few samples need not suit the weights of several.
    """
    few = min(FEW, config.batch.micro_size or FEW)
    changed = {"batch": config.batch.model_copy(update={"micro_size": few, "global_size": few * size})}
    if one_source:
        changed["data"] = config.data.model_copy(update={"train": config.data.train[:1]})
    config = config.model_copy(update=changed)
    with fake_world(0, size, Kind.real) as world:
        trainer = build(config, world, StepSync(world), None)
        print(f"model: built for {trainer.facts()['layout']}; ranks are alike")
        # A verdict on numbers means nothing: those of the other ranks are missing.
        with suppress(HealthError):
            trainer.step(0)
    print(f"step: one of rank 0, with {few} samples of its own")
