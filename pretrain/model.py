"""A model laid over the ranks: forward and backward over micro-batches, whatever the layout.

The trainer, validation and `pretrain eval` all go through the same forward step, so their losses are the same
numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.distributed.finalize_model_grads import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import _MODEL_PARALLEL_RNG_TRACKER_NAME
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from pretrain.config.narrow import narrow
from pretrain.config.sections import GptConfig, TextConfig
from pretrain.data.batch import Batch
from pretrain.layout import Layout, world_sum
from pretrain.models.attention import attention_mask, zigzag_positions
from pretrain.models.gpt import GPT, build_gpt
from pretrain.models.initialise import initialise
from pretrain.seeds import stream_seed


@dataclass(frozen=True)
class LossSum:
    """Negative log-likelihood summed over labels, of the whole world."""

    nll: float
    """Nats."""
    tokens: int
    """Labels scored."""

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nll / self.tokens


@dataclass(frozen=True)
class LocalLoss:
    """Losses of this rank's micro-batches, not yet summed over the world."""

    layout: Layout
    micro_batches: tuple[Tensor, ...]
    """[nll, tokens] float64 each; none before the last pipeline stage."""

    def over_world(self, *numbers: float) -> tuple[LossSum, list[float]]:
        """Sum over all ranks, together with further numbers in the same message; the same on every rank."""
        total = torch.zeros(2 + len(numbers), dtype=torch.float64)
        total[2:] = torch.tensor(numbers, dtype=torch.float64)
        total = total.to(self.layout.device)
        # Tensor parallel ranks hold the same losses; one of them speaks.
        if self.layout.is_last_stage and self.layout.tensor_rank == 0:
            total[:2] += torch.stack(self.micro_batches).sum(0)
        nll, tokens, *rest = world_sum(total).tolist()
        return LossSum(nll, int(tokens)), rest


class Model:
    """This rank's chunks of a model, ready to run a pipeline schedule.

    Attributes:
        chunks: the bare modules; `models.logical` names their parameters.
        wrapped: the same with mixed precision and, for training, gradient reduction around them.
    """

    def __init__(self, config: TextConfig, layout: Layout, vocab_size: int, *, training: bool) -> None:
        self.config = config
        self.layout = layout
        # megatron's layers take their random streams from its tracker even where they do not use them.
        seed_step(config.run.seed, 0, layout)
        self.chunks, self.megatron = build_gpt(narrow(config, GptConfig, "training"), layout, vocab_size)
        wrapped: list[Any] = list(self.chunks)
        if config.precision == "bf16":
            wrapped = [Float16Module(self.megatron, chunk) for chunk in wrapped]
        if training:
            initialise(self.chunks, config.model, layout, config.run.seed)
            wrapped = [self._reduce_gradients(chunk, index) for index, chunk in enumerate(wrapped)]
            self.megatron.finalize_model_grads_func = finalize_model_grads
        self.wrapped = wrapped

    def _reduce_gradients(self, chunk: torch.nn.Module, index: int) -> Any:
        parallel = self.config.parallel
        settings = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=parallel.overlap_grad_reduce,
            use_distributed_optimizer=parallel.distributed_optimizer,
            check_for_nan_in_grad=False,  # the trainer judges, on all ranks together
        )
        wrapped = DistributedDataParallel(self.megatron, settings, chunk, disable_bucketing=index > 0)
        if parallel.overlap_grad_reduce:
            # Reduce only in the last micro-batch of a step, as megatron's schedules expect.
            previous = self.megatron.no_sync_func
            self.megatron.no_sync_func = (
                wrapped.no_sync if self.layout.chunks == 1 else [*(previous or []), wrapped.no_sync]
            )
        return wrapped

    def backward(self, batches: Sequence[Batch]) -> LocalLoss:
        """Gradients of the mean loss per token of the global batch, summed over all ranks.

        Args:
            batches: this rank's micro-batches of the step.
        """
        self._forget_gradients()
        return self._run(batches, forward_only=False)

    def replay(self, batches: Sequence[Batch], watch: "Watch") -> LocalLoss:
        """As `backward`, but gradients stay on the rank that made them.

        Args:
            batches: this rank's micro-batches of the step.
            watch: wraps the forward step of every micro-batch.
        """
        settings = self.megatron.finalize_model_grads_func, self.megatron.no_sync_func
        self.megatron.finalize_model_grads_func = self.megatron.no_sync_func = None
        try:
            self._forget_gradients()  # this also switches the reduction on, so it comes first
            with ExitStack() as stack:
                for chunk in self.wrapped:
                    stack.enter_context(chunk.no_sync())
                return self._run(batches, forward_only=False, watch=watch)
        finally:
            self.megatron.finalize_model_grads_func, self.megatron.no_sync_func = settings

    def _forget_gradients(self) -> None:
        for chunk in self.wrapped:
            chunk.train()
            chunk.zero_grad_buffer()
            for parameter in chunk.parameters():
                # The optimizer makes `grad` an alias of the buffer; kept, it would be added to itself.
                parameter.grad = None

    @torch.no_grad()
    def score(self, batches: Sequence[Batch]) -> LossSum:
        """Loss of these micro-batches of every data parallel rank, without dropout.

        Args:
            batches: this rank's micro-batches, as many as every other rank has.
        """
        for chunk in self.wrapped:
            chunk.eval()
        stages = self.layout.parallel.pipeline
        missing = -len(batches) % stages if self.layout.parallel.virtual_pipeline else 0
        filler = replace(batches[0], loss_mask=torch.zeros_like(batches[0].loss_mask))
        loss, _ = self._run([*batches, *[filler] * missing], forward_only=True).over_world()
        return loss

    def _run(
        self, batches: Sequence[Batch], *, forward_only: bool, watch: "Watch | None" = None
    ) -> LocalLoss:
        local = [self._localise(batch) for batch in batches]
        iterators = [iter(local) for _ in self.wrapped]
        single = len(self.wrapped) == 1
        sums: list[Tensor] = get_forward_backward_func()(
            forward_step_func=watch(forward_step) if watch else forward_step,
            data_iterator=iterators[0] if single else iterators,
            model=self.wrapped[0] if single else self.wrapped,
            num_microbatches=len(local),
            seq_length=self.config.batch.sequence_length,
            micro_batch_size=local[0].tokens.shape[0],
            forward_only=forward_only,
        )
        return LocalLoss(self.layout, tuple(sums))

    def _localise(self, batch: Batch) -> "_LocalBatch":
        """This context parallel rank's part of a micro-batch, on its device."""
        rank, size = self.layout.context_rank, self.layout.parallel.context
        length = batch.tokens.shape[1]
        positions = zigzag_positions(rank, size, length) if size > 1 else slice(None)
        mask = attention_mask(batch.document_ids, rank, size, length)
        device = self.layout.device

        def part(tensor: Tensor) -> Tensor:
            return tensor[:, positions].contiguous().to(device, non_blocking=True)

        return _LocalBatch(
            tokens=part(batch.tokens),
            labels=part(batch.labels),
            loss_mask=part(batch.loss_mask),
            position_ids=part(batch.position_ids),
            attention_mask=None if mask is None else mask.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class _LocalBatch:
    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None


LossFunction = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
ForwardStep = Callable[[Iterator[_LocalBatch], Any], tuple[Tensor, LossFunction]]
Watch = Callable[[ForwardStep], ForwardStep]


def forward_step(batches: Iterator[_LocalBatch], chunk: GPT) -> tuple[Tensor, LossFunction]:
    """One micro-batch through one chunk, in the form that megatron's schedules call.

    Returns:
        The chunk's output, and the function that turns the last chunk's into (sum of losses, number of
        labels, what to report: [nll, tokens] float64).
    """
    batch = next(batches)
    output = chunk(batch.tokens, batch.position_ids, batch.attention_mask, labels=batch.labels)

    def loss(losses_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masked = torch.where(batch.loss_mask > 0, losses_BS.float(), 0.0)
        nll = masked.sum()
        tokens = (batch.loss_mask > 0).sum().int()
        report = torch.stack([masked.detach().double().sum(), tokens.double()])
        return nll, tokens, report

    return output, loss


def seed_step(seed: int, step: int, layout: Layout) -> None:
    """Set every random stream of this rank as a function of (seed, step, coordinates).

    Nothing random is carried from step to step, so a resumed run draws the same dropout masks without any
    generator state in the checkpoint. Ranks of one tensor parallel group share the default stream (their
    activations are replicated there) and differ in megatron's model-parallel stream.
    """
    place = (layout.data_rank, layout.context_rank, layout.pipeline_rank)
    shared = stream_seed(seed, step, *place)
    own = stream_seed(seed, step, *place, layout.tensor_rank, 1)
    torch.manual_seed(shared)
    if layout.device.type == "cuda":
        torch.cuda.manual_seed(shared)
    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    tracker.reset()
    tracker.add(_MODEL_PARALLEL_RNG_TRACKER_NAME, own)
