"""What one micro-batch costs in each kind of chunk, measured by running it on fake tensors.

All layers of a model are alike but for their windows, so chunks of one and of two layers are run, with
windows and without, and others follow from the differences: nothing here depends on the model's depth.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from pretrain.config.derived import windows as windows_of
from pretrain.config.sections import TextConfig
from pretrain.megatron.layers.transformer import parameter_dtype
from pretrain.megatron.model_spec import SpecOf
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel, forward_step
from pretrain.plan.cost_counter import CostCounter, Work
from pretrain.plan.fake_world import Kind, fake_world

T = TypeVar("T", bound=TextConfig)


@dataclass(frozen=True)
class Role:
    """What a chunk has besides its layers."""

    first: bool
    """Whether it has the embedding."""
    last: bool
    """Whether it has the final norm, the head and the loss."""


@dataclass(frozen=True)
class ChunkCost:
    """One micro-batch through a chunk, forward and backward."""

    saved: float
    """Bytes that stay from its forward to its backward pass, including the chunk's input and output."""
    forward_peak: float
    """The most bytes at a time in the forward pass, above what was there before."""
    backward_peak: float
    """The same in the backward pass, including what was saved."""
    forward: Work
    backward: Work
    """Including what is recomputed."""

    def extended(self, longer: "ChunkCost", times: float) -> "ChunkCost":
        """This cost plus `times` the difference to that of the `longer` chunk."""
        return ChunkCost(
            saved=self.saved + (longer.saved - self.saved) * times,
            forward_peak=self.forward_peak + (longer.forward_peak - self.forward_peak) * times,
            backward_peak=self.backward_peak + (longer.backward_peak - self.backward_peak) * times,
            forward=self.forward + (longer.forward - self.forward) * times,
            backward=self.backward + (longer.backward - self.backward) * times,
        )


@dataclass(frozen=True)
class Trace:
    """What micro-batches cost."""

    chunks: Mapping[Role, ChunkCost]
    input_bytes: int
    """One micro-batch's tokens, labels and masks; all those of a step are on the device together."""
    buffers: int
    """Bytes that megatron-core keeps for collectives, whatever the number of layers and micro-batches."""
    hidden: int
    """Bytes of the hidden states that one stage sends to the next."""

    def extended(self, longer: "Trace", times: float) -> "Trace":
        """This trace plus `times` the difference to the `longer` one: of layers, or of samples."""

        def further(here: int, there: int) -> int:
            return round(here + (there - here) * times)

        return Trace(
            {role: cost.extended(longer.chunks[role], times) for role, cost in self.chunks.items()},
            further(self.input_bytes, longer.input_bytes),
            further(self.buffers, longer.buffers),
            further(self.hidden, longer.hidden),
        )


def trace(config: TextConfig, vocab_size: int, spec_of: SpecOf, *, fused_dropout: bool) -> Trace:
    """Run each kind of chunk.

    Args:
        config: the run's; `config.rules` hold.
        vocab_size: ids of the tokenizer, without padding.
        spec_of: makes the model spec.
        fused_dropout: whether attention saves no dropout mask, as on a GPU. torch's fused CPU kernel has no
            dropout, and the fallback saves all scores.
    """
    windows = windows_of(config.model)
    full = windows.count(None) / len(windows)

    def of(layers: int) -> Trace:
        """A chunk whose layers have windows as often as those of the model on average."""
        if 0 < full < 1:
            with_window, without = (
                trace_shallow(alike, vocab_size, spec_of, layers, fused_dropout=fused_dropout)
                for alike in (_with_model(config, window_pattern=None), _with_model(config, window=None))
            )
            return with_window.extended(without, full)
        return trace_shallow(config, vocab_size, spec_of, layers, fused_dropout=fused_dropout)

    one = of(1)
    layers = config.model.num_layers // (config.parallel.pipeline * _chunks(config))
    return one if layers == 1 else one.extended(of(2), layers - 1)


def _with_model(config: T, **keys: Any) -> T:
    return config.model_copy(update={"model": config.model.model_copy(update=keys)})


def _chunks(config: TextConfig) -> int:
    return config.parallel.virtual_pipeline or 1


def role_of(config: TextConfig, stage: int, chunk: int) -> Role:
    """What a chunk of a stage has besides its layers."""
    last = stage == config.parallel.pipeline - 1 and chunk == _chunks(config) - 1
    return Role(first=stage == 0 and chunk == 0, last=last)


def shallow(config: T, layers: int, chunks: int | None) -> T:
    """The same layout with `chunks` on each stage, `layers` in each of them, and one replica."""
    parallel = config.parallel
    depth = layers * parallel.pipeline * (chunks or 1)
    alone = parallel.model_copy(
        update={"virtual_pipeline": chunks, "distributed_optimizer": False, "overlap_grad_reduce": False}
    )
    return _with_model(config, num_layers=depth).model_copy(update={"parallel": alone})


def without_attention_dropout(stack: ExitStack) -> None:
    """Until the stack ends, attention runs as on GPUs: in one kernel, which saves no dropout mask."""
    plain = F.scaled_dot_product_attention

    def fused(*args: Any, **kwargs: Any) -> Tensor:
        return plain(*args, **{**kwargs, "dropout_p": 0.0})

    stack.enter_context(patch.object(F, "scaled_dot_product_attention", fused))


def trace_shallow(
    config: TextConfig, vocab_size: int, spec_of: SpecOf, layers: int, *, fused_dropout: bool
) -> Trace:
    config = shallow(config, layers, config.parallel.virtual_pipeline and 2)
    size, pipeline = config.replica_ranks, config.parallel.pipeline
    found: dict[Role, ChunkCost] = {}
    inputs = buffers = hidden = 0
    wanted = {role_of(config, stage, chunk) for stage in range(pipeline) for chunk in range(_chunks(config))}
    for stage in (0, pipeline - 1, 1):
        if wanted <= found.keys():
            break
        with ExitStack() as stack:
            world = stack.enter_context(fake_world(stage * size // pipeline, size, Kind.fake))
            if fused_dropout:
                without_attention_dropout(stack)
            layout = build_parallel_dims(world, config.parallel)
            model = PipelineModel(config, layout, vocab_size, spec_of(config, layout), training=True)
            local = local_micro_batch(model)
            inputs = bytes_of(local)
            hidden = _hidden(model).untyped_storage().nbytes()
            model.forget_gradients()
            kept = 0
            for chunk in range(len(model.chunks)):
                role = role_of(config, stage, chunk)
                if role not in found:
                    found[role], more = _measure(model, chunk, local, role)
                    kept += more
            buffers = max(buffers, kept)
    return Trace(found, inputs, buffers, hidden)


def _measure(model: PipelineModel, number: int, local: Any, role: Role) -> tuple[ChunkCost, int]:
    """The chunk's cost, and the bytes that stay allocated."""
    chunk = model.wrapped[number]
    with chunk.no_sync(), CostCounter() as counter:
        # What the previous stage sends; the first chunk has the tokens instead.
        given = None if role.first else _hidden(model)
        get_attr_wrapped_model(chunk, "set_input_tensor")(given)
        output, loss = forward_step(model.family, torch.ones(()), iter([local]), chunk)
        result = loss(output)[0] if role.last else output
        saved, forward_peak, forward = counter.live, counter.peak, counter.work
        counter.peak = counter.live
        torch.autograd.backward(result, None if role.last else torch.empty_like(result))
        backward, backward_peak = counter.work - forward, counter.peak
        get_attr_wrapped_model(chunk, "set_input_tensor")(None)
        del given, output, loss, result
        kept = counter.live
        cost = ChunkCost(saved - kept, forward_peak - kept, backward_peak - kept, forward, backward)
        return cost, kept


def _hidden(model: PipelineModel) -> Tensor:
    """Hidden states between stages, [S, B, H] in the precision of the forward pass."""
    parallel, batch = model.config.parallel, model.config.batch
    length = batch.sequence_length // parallel.context
    length //= parallel.tensor if parallel.sequence else 1
    shape = length, batch.micro_size, model.config.model.hidden_size
    return torch.empty(shape, dtype=parameter_dtype(model.config), requires_grad=True)


def local_micro_batch(model: PipelineModel) -> Any:
    """A micro-batch as the model spec gives it to this rank, without values; in a fake world."""
    spec = model.family
    if not spec.reads_numbers:
        return spec.localise(spec.dummy_batch())
    # This model spec looks at values, so it gets a real batch, which becomes fake afterwards.
    with unset_fake_temporarily():
        local = spec.localise(spec.dummy_batch())
    fake = detect_fake_mode()
    assert fake is not None, "called in a fake world"
    return replace(
        local,
        **{
            field.name: fake.from_tensor(value)
            for field in fields(local)
            if isinstance(value := getattr(local, field.name), Tensor)
        },
    )


def bytes_of(local: Any) -> int:
    """Bytes of a local micro-batch, counting shared memory each time."""
    tensors = [getattr(local, field.name) for field in fields(local)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
