"""Faults that train on without an error; each must turn a parity test red."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch


def drop_tied_embedding_reduction() -> Any:
    """The two copies of a tied embedding keep their own gradients."""
    return mock.patch(
        "megatron.core.distributed.finalize_model_grads._allreduce_word_embedding_grads", lambda *a, **k: None
    )


def drop_norm_reduction() -> Any:
    """Under sequence parallelism every rank keeps its own part of a norm's gradient."""
    return mock.patch("pretrain.megatron.layers.norm._tag", lambda norm, config: None)


def shift_one_rank() -> Any:
    """One rank draws other dropout masks than its tensor parallel group."""
    import pretrain.megatron.trainer as trainer

    honest = trainer.seed_step

    def shifted(seed: int, step: int, layout: Any) -> None:
        honest(seed, step, layout)
        if layout.world.rank == 1:
            torch.rand(1)

    return mock.patch.object(trainer, "seed_step", shifted)


def average_per_micro_batch() -> Any:
    """Each micro-batch counts the same, however many labels it has."""
    import pretrain.megatron.pipeline as model

    honest = model.forward_step

    def averaged(family: Any, divisors: Any, batches: Any, chunk: Any) -> Any:
        output, loss = honest(family, torch.ones_like(divisors), batches, chunk)

        def mean(losses: torch.Tensor) -> Any:
            nll, nothing, report = loss(losses)
            labels = report[1].clamp(min=1)
            return nll / labels / 4, nothing, report / labels

        return output, mean

    return mock.patch.object(model, "forward_step", averaged)


def batch_p2p_when_interleaved() -> Any:
    """The interleaved schedule over batched p2p, wrong at two stages."""
    import pretrain.gpt.model as gpt

    honest = gpt.transformer_config

    def batched(config: Any, device: torch.device) -> Any:
        megatron = honest(config, device)
        megatron.batch_p2p_comm, megatron.overlap_p2p_comm = True, False
        return megatron

    return mock.patch.object(gpt, "transformer_config", batched)


def keep_gradient_alias() -> Any:
    """`grad` stays an alias of the gradient buffer, so that the first micro-batch counts twice."""
    import pretrain.megatron.pipeline as model

    class Kept(model.PipelineModel):
        def backward(self, batches: Any) -> Any:
            for chunk in self.wrapped:
                chunk.train()
                chunk.zero_grad_buffer()
            return self._run(batches, forward_only=False)

    return mock.patch("pretrain.megatron.corpus_trainer.PipelineModel", Kept)


def sum_head_gradients() -> Any:
    """Every rank's gradient of the same heads is added up on its way back to the sequence's parts."""
    import pretrain.megatron.layers.encoder as encoder

    honest = encoder.gather_from_sequence_parallel_region

    def summed(hidden: torch.Tensor, tensor_parallel_output_grad: bool) -> torch.Tensor:
        return honest(hidden, tensor_parallel_output_grad=True)

    return mock.patch.object(encoder, "gather_from_sequence_parallel_region", summed)


def drop_head_norm_reduction() -> Any:
    """Every rank keeps the gradient of a norm of queries and keys that its own heads gave."""

    def forget(config: Any, model: Any) -> None:
        config.qk_layernorm = False

    return mock.patch("pretrain.gpt.model.set_attention_factor", forget)


def drop_whole_norm_reduction() -> Any:
    """A norm over all heads sums squares over ranks, but not their gradients."""
    return mock.patch("pretrain.megatron.layers.norm.copy_to_tensor_model_parallel_region", lambda x: x)


def forget_window_on_one_rank() -> Any:
    """Of the ranks that share a sequence, one looks beyond its window."""
    import pretrain.megatron.layers.attention as attention

    honest = attention.within_window

    def forgetful(mask: Any, window: int, queries: int, keys: int, rank: int, *more: Any) -> torch.Tensor:
        return honest(mask, keys if rank else window, queries, keys, rank, *more)

    return mock.patch.object(attention, "within_window", forgetful)


def normaliser_of_a_part() -> Any:
    """The z-loss sees the label's logit on one rank alone."""
    name = "pretrain.megatron.layers.vocabulary.reduce_from_tensor_model_parallel_region"
    return mock.patch(name, lambda x: x)


MUTATIONS: dict[str, Callable[[], Any]] = {
    function.__name__: function
    for function in (
        drop_tied_embedding_reduction,
        drop_norm_reduction,
        shift_one_rank,
        average_per_micro_batch,
        batch_p2p_when_interleaved,
        keep_gradient_alias,
        sum_head_gradients,
        drop_head_norm_reduction,
        drop_whole_norm_reduction,
        forget_window_on_one_rank,
        normaliser_of_a_part,
    )
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Run with a fault, or without."""
    if name is None:
        yield
        return
    with MUTATIONS[name]():
        yield
