"""Bytes of weights, gradients and optimizer states of one rank, measured by building them without memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pretrain.config.sections import TextConfig
from pretrain.megatron.model_spec import SpecOf
from pretrain.megatron.optimizer import Optimizer
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.plan.fake_world import Kind, fake_world


@dataclass(frozen=True)
class States:
    """What a rank holds from step to step, in bytes."""

    parameters: int
    """Elements of its parameters, not bytes; what tensor parallel ranks share is counted on each."""
    weights: int
    """In the precision of the forward pass, with the padding of the buffer that they are in."""
    gradients: int
    """float32, with the same padding."""
    optimizer: int
    """float32 master weights (bf16 runs), both moments and Adam's step counters: this rank's share."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def held_states(model: PipelineModel, optimizer: Optimizer) -> States:
    """What a model and its optimizer keep on this rank, real or fake."""
    parameters = [parameter for chunk in model.chunks for parameter in chunk.parameters()]
    known = storages_of(parameters)
    weights = sum(known.values())
    gradients = storages_of(model.gradient_buffers())
    states = {key: size for key, size in storages_of(optimizer.tensors()).items() if key not in known}
    return States(
        parameters=sum(parameter.numel() for parameter in parameters),
        weights=weights,
        gradients=sum(gradients.values()),
        optimizer=sum(states.values()),
    )


def storages_of(tensors: Sequence[torch.Tensor]) -> dict[int, int]:
    """Identity of each storage under these tensors -> its bytes."""
    found = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage.nbytes() for storage in found}


def rank_states(config: TextConfig, vocab_size: int, rank: int, size: int, spec_of: SpecOf) -> States:
    """What rank `rank` of `size` keeps from step to step.

    Args:
        config: must fit the world (`config.rules`).
        vocab_size: ids of the tokenizer, without padding.
        rank: in megatron-core's order: tensor fastest, then context, data, pipeline.
        spec_of: makes the model spec.
    """
    with fake_world(rank, size, Kind.meta) as world:
        layout = build_parallel_dims(world, config.parallel)
        model = PipelineModel(config, layout, vocab_size, spec_of(config, layout), training=True)
        return held_states(model, Optimizer(config, model))
