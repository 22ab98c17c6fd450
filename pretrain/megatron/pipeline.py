"""A model laid out over the ranks: forward and backward over micro-batches, in any layout.

The trainer, validation and `pretrain eval` all use the same forward step, so their losses are the same
numbers.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import _MODEL_PARALLEL_RNG_TRACKER_NAME
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from pretrain.config.sections import TextConfig
from pretrain.data.dataset import AnyBatch
from pretrain.data.transfer import to_device
from pretrain.megatron.ddp import DDP
from pretrain.megatron.init import initialise
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims, world_sum
from pretrain.seeds import stream_seed
from pretrain.training.metric_sums import MetricSums


@dataclass(frozen=True)
class LocalLoss:
    """Losses of this rank's micro-batches, not yet summed over the world."""

    layout: ParallelDims
    totals: type[MetricSums]
    micro_batches: tuple[Tensor, ...]
    """Fields of `totals` for each micro-batch, float64; none before the last pipeline stage."""

    def over_world(self, norm: Tensor | None = None) -> tuple[MetricSums, float, float]:
        """Sum over all ranks; on a GPU, the one place in a step where the host waits for it.

        Args:
            norm: this rank's gradient norm, [] float64 on the device, summed in the same message.

        Returns:
            The sums of losses and of norms, the same on every rank, and this rank's norm.
        """
        width, device = len(fields(self.totals)), self.layout.device
        own = torch.zeros(1, dtype=torch.float64, device=device) if norm is None else norm[None]
        total = torch.cat([own.new_zeros(width), own])
        # Tensor parallel ranks hold the same losses, so only one of them counts.
        if self.layout.is_last_stage and self.layout.tensor_rank == 0:
            total[:width] += torch.stack(self.micro_batches).sum(0)
        *summed, norms, mine = torch.cat([world_sum(total), own]).tolist()
        return self.totals(*summed), norms, mine


class PipelineModel:
    """This rank's chunks of a model, ready to run a pipeline schedule.

    Attributes:
        chunks: the bare modules; `megatron.sharding` names their parameters.
        wrapped: the same with mixed precision and, for training, gradient reduction around them.
    """

    def __init__(
        self,
        config: TextConfig,
        layout: ParallelDims,
        vocab_size: int,
        family: ModelSpec[Any, Any],
        *,
        training: bool,
    ) -> None:
        self.config = config
        self.layout = layout
        # megatron's layers take random streams from its tracker even if they never draw from them.
        seed_step(config.run.seed, 0, layout)
        self.family = family
        self.chunks, self.megatron = self.family.build(vocab_size)
        wrapped: list[Any] = list(self.chunks)
        if config.precision == "bf16":
            wrapped = [Float16Module(self.megatron, chunk) for chunk in wrapped]
        if training:
            initialise(self.chunks, config.model, layout, config.run.seed)
            wrapped = [self._reduce_gradients(chunk, index) for index, chunk in enumerate(wrapped)]
            self.megatron.finalize_model_grads_func = _finalise
        self.wrapped = wrapped

    def _reduce_gradients(self, chunk: torch.nn.Module, index: int) -> Any:
        parallel = self.config.parallel
        settings = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            use_distributed_optimizer=parallel.distributed_optimizer,
            check_for_nan_in_grad=False,  # the trainer judges on all ranks together
        )
        wrapped = DDP(self.megatron, settings, chunk, disable_bucketing=index > 0)
        if parallel.overlap_grad_reduce:
            # Reduce only in the last micro-batch of a step, as megatron's schedules expect; with several
            # chunks they want a list of these functions.
            previous = self.megatron.no_sync_func
            self.megatron.no_sync_func = (
                wrapped.no_sync if self.layout.chunks == 1 else [*(previous or []), wrapped.no_sync]
            )
        return wrapped

    def before_reduction(self, tell: Callable[[], None]) -> None:
        """Call `tell` in each step when this rank's gradients are complete, before their sum over ranks."""
        reduce = self.megatron.finalize_model_grads_func

        def told(*arguments: Any, **more: Any) -> None:
            tell()
            reduce(*arguments, **more)

        self.megatron.finalize_model_grads_func = told

    def backward(self, batches: Sequence[AnyBatch]) -> LocalLoss:
        """Compute gradients of the mean loss per label of the global batch, summed over all ranks.

        Args:
            batches: this rank's micro-batches of the step.
        """
        self._prepare()
        for chunk in self.wrapped:
            chunk.begin()
        return self._run(batches, forward_only=False)

    def replay(self, batches: Sequence[AnyBatch], watch: "Watch") -> LocalLoss:
        """As `backward`, but gradients stay on the rank that made them.

        Args:
            batches: this rank's micro-batches of the step.
            watch: wraps the forward step of every micro-batch.
        """
        with self._apart():
            return self._run(batches, forward_only=False, watch=watch)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """A step from zero gradients, which are not summed over ranks."""
        settings = self.megatron.finalize_model_grads_func, self.megatron.no_sync_func
        self.megatron.finalize_model_grads_func = self.megatron.no_sync_func = None
        try:
            self.forget_gradients()  # first, because it also switches the reduction on
            with ExitStack() as stack:
                for chunk in self.wrapped:
                    stack.enter_context(chunk.no_sync())
                yield
        finally:
            self.megatron.finalize_model_grads_func, self.megatron.no_sync_func = settings

    def rehearse(self, local: Sequence[Any]) -> None:
        """As `backward` without the sum over ranks, on tensors without values.

        Args:
            local: micro-batches as the model spec's `localise` returns them.
        """
        with self._apart():
            step = functools.partial(forward_step, self.family, torch.ones(()))
            self.schedule(step, local, forward_only=False)

    def gradient_buffers(self) -> list[Tensor]:
        """The memory in which this rank's gradients add up; only a model for training has it."""
        return [buffer.grad_data for chunk in self.wrapped for buffer in chunk.buffers]

    def forget_gradients(self) -> None:
        """Begin a step of training with gradients of zero."""
        self._prepare()
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()

    def _prepare(self) -> None:
        for chunk in self.wrapped:
            if not chunk.training:  # train() walks through all modules, which takes time
                chunk.train()
            for parameter in chunk.params_with_grad:
                # The optimizer makes `grad` an alias of the buffer. If kept, it would be added to itself.
                parameter.grad = None

    @torch.no_grad()
    def score(self, batches: Sequence[AnyBatch]) -> MetricSums:
        """Loss of these micro-batches of every data-parallel rank, without dropout.

        Args:
            batches: this rank's micro-batches, as many as every other rank has.
        """
        for chunk in self.wrapped:
            chunk.eval()
        return self._run(self._whole_rounds(batches), forward_only=True).over_world()[0]

    @torch.no_grad()
    def outputs(self, batches: Sequence[AnyBatch], run: Callable[[Any, Any], Any] | None = None) -> list[Any]:
        """What the last chunk gives for each of these micro-batches, without dropout.

        Args:
            batches: this rank's micro-batches of one shape, as many as every other rank of its replica has.
            run: runs one, as the model spec's `localise` returns it, through a chunk; None: the model spec's
                `run`.

        Returns:
            As many outputs on the last pipeline stage; none before it.
        """
        for chunk in self.wrapped:
            chunk.eval()
        local = [self.family.localise(batch) for batch in self._whole_rounds(batches)]
        step = _without_loss(run or self.family.run)
        return self.schedule(step, local, forward_only=True)[: len(batches)]

    def _whole_rounds(self, batches: Sequence[AnyBatch]) -> list[AnyBatch]:
        """The micro-batches, padded with ones that count for nothing to what interleaved schedules need."""
        stages = self.layout.parallel.pipeline
        missing = -len(batches) % stages if self.layout.parallel.virtual_pipeline else 0
        return [*batches, *[self.family.without_labels(batches[0])] * missing]

    def _run(
        self, batches: Sequence[AnyBatch], *, forward_only: bool, watch: "Watch | None" = None
    ) -> LocalLoss:
        local = [self.family.localise(batch) for batch in batches]
        divisors = torch.ones(()) if forward_only else self._divisors(batches)
        step = functools.partial(forward_step, self.family, divisors)
        sums = self.schedule(watch(step) if watch else step, local, forward_only=forward_only)
        return LocalLoss(self.layout, self.family.totals, tuple(sums))

    def schedule(self, step: "ForwardStep", local: Sequence[Any], *, forward_only: bool) -> list[Any]:
        """Run micro-batches through the pipeline.

        Args:
            step: runs one micro-batch through one chunk.
            local: this rank's micro-batches, each with `tokens` [B, S].
            forward_only: without gradients.

        Returns:
            What megatron's schedule collects on the last stage.
        """
        iterators = [iter(local) for _ in self.wrapped]
        single = len(self.wrapped) == 1
        rows, length = local[0].tokens.shape
        collected: list[Any] = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iterators[0] if single else iterators,
            model=self.wrapped[0] if single else self.wrapped,
            num_microbatches=len(local),
            seq_length=length * self.layout.parallel.context,
            micro_batch_size=rows,
            forward_only=forward_only,
        )
        return collected

    def _divisors(self, batches: Sequence[AnyBatch]) -> Tensor:
        """How many labels each loss has in the global batch, [losses] float32, at least 1."""
        counts = torch.tensor([self.family.labels(batch) for batch in batches], dtype=torch.float64).sum(0)
        counts = to_device(counts, self.layout.device)
        dist.all_reduce(counts, group=parallel_state.get_data_parallel_group())
        return counts.clamp(min=1).float()


LossFunction = Callable[[Any], tuple[Tensor, Tensor, Tensor]]
ForwardStep = Callable[[Iterator[Any], Any], tuple[Any, LossFunction | None]]
Watch = Callable[[ForwardStep], ForwardStep]


def forward_step(
    family: ModelSpec[Any, Any], divisors: Tensor, batches: Iterator[Any], chunk: Any
) -> tuple[Any, LossFunction]:
    """Run one micro-batch through one chunk, in the form that megatron's schedules call.

    Args:
        family: the model spec, which runs the chunk.
        divisors: labels of each loss in the global batch, so that the sum of all micro-batches' losses over
            all ranks is the loss of the step, however the batch is cut.
        batches: of this context-parallel rank.
        chunk: of this pipeline stage.

    Returns:
        The chunk's output, and the function that turns the last chunk's output into (its share of the loss, a
        label count of zero, the report).
    """
    local = next(batches)
    output = family.run(chunk, local)

    def loss(output: Any) -> tuple[Tensor, Tensor, Tensor]:
        sums, report = family.losses(output, local)
        # The label count only reaches `_finalise`, which ignores it: the loss is already divided.
        return (sums / divisors).sum(), torch.zeros((), dtype=torch.int, device=sums.device), report

    return output, loss


def _without_loss(run: Callable[[Any, Any], Any]) -> ForwardStep:
    """A forward step whose output is collected as it is."""

    def step(batches: Iterator[Any], chunk: Any) -> tuple[Any, None]:
        return run(chunk, next(batches)), None

    return step


def _finalise(chunks: list[Any], _labels: Tensor, **settings: Any) -> None:
    """Sum gradients over ranks. Losses were already divided by the labels of the global batch."""
    for chunk in chunks:
        chunk.complete()
    finalize_model_grads(chunks, None, **settings)


def seed_step(seed: int, step: int, layout: ParallelDims) -> None:
    """Set every random stream of this rank as a function of (seed, step, coordinates).

    Nothing random is carried from step to step, so a resumed run draws the same dropout masks without any
    generator state in the checkpoint. Ranks of one tensor parallel group share the default stream (their
    activations are replicated there) and differ in megatron's model-parallel stream.
    """
    coordinates = (layout.data_rank, layout.context_rank, layout.pipeline_rank)
    shared = stream_seed(seed, step, *coordinates)
    own = stream_seed(seed, step, *coordinates, layout.tensor_rank, 1)
    # torch.manual_seed does the same, but formats a stack trace each time in case CUDA is initialised later.
    torch.default_generator.manual_seed(shared)
    if layout.device.type == "cuda":
        torch.cuda.manual_seed(shared)
    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    tracker.reset()
    tracker.add(_MODEL_PARALLEL_RNG_TRACKER_NAME, own)
