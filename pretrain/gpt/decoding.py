"""Next-token logits of several texts at once, with a cache, over tensor and pipeline parallel ranks.

Texts of different lengths are padded on the left, so that all end in the same column. As long as every text
fits into the sequence length that the model was trained on, a step costs one column. After that the model
sees the last `sequence_length` tokens of each text, whose positions move, and everything is computed again.

Shape legend: B texts, S columns, K columns including those of the cache, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from pretrain.config.derived import padded_vocab_size
from pretrain.gpt.kv_cache import KeyValueCache, caching
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel


@dataclass(frozen=True)
class Columns:
    """Input of the model in one step."""

    tokens: Tensor
    """[B, S] int64."""
    positions: Tensor
    """[B, S] int64, each text counted from its own beginning."""
    mask: Tensor | None
    """[B, 1, S, K] bool; None if nothing is padded."""


class Decoder:
    """A model that is asked for one token after the other; a context manager. All ranks of a replica call it
    alike.

    Args:
        model: of a GPT, on tensor and pipeline parallel ranks; replicas are independent.
        rows: texts.
        longest: tokens that a text may reach.
        cached: keep keys and values from step to step.
    """

    def __init__(self, model: PipelineModel, rows: int, longest: int, *, cached: bool = True) -> None:
        self._model, self._rows = model, rows
        self._window = model.config.batch.sequence_length
        self._capacity = min(self._window, longest) if cached else 0
        self._stack = ExitStack()
        self._cache: KeyValueCache | None = None
        self._padding: list[int] = []

    def __enter__(self) -> "Decoder":
        for chunk in self._model.wrapped:
            chunk.eval()
        chunk = self._model.chunks[0]
        if self._capacity:
            self._cache = self._stack.enter_context(caching(chunk, self._rows, self._capacity))
        last_layer = chunk.decoder.final_layernorm
        if last_layer is not None:
            # Only the last column's logits are needed, so the head sees only that column.
            hook = last_layer.register_forward_pre_hook(lambda _, inputs: (inputs[0][-1:], *inputs[1:]))
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def next_logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits of the token after each text, [B, V] on every rank of the replica.

        Args:
            texts: those of the step before, each with one more token, or any others.
        """
        columns = self._columns([text[-self._window :] for text in texts])
        found = self._model.schedule(_step, [columns], forward_only=True)
        layout, chunk = self._model.layout, self._model.chunks[0]
        logits_BV = _gathered(found[0][:, -1]) if layout.is_last_stage else None
        if layout.parallel.pipeline > 1:
            rows = padded_vocab_size(chunk.true_vocab_size, self._model.config.model.vocab_multiple)
            logits_BV = _from_last_rank(logits_BV, (len(texts), rows), layout)
        assert logits_BV is not None
        return logits_BV[:, : chunk.true_vocab_size]

    def _columns(self, texts: Sequence[Sequence[int]]) -> Columns:
        """The columns that are not in the cache."""
        width = max(map(len, texts))
        padding = [width - len(text) for text in texts]
        cached = 0
        if self._cache is not None:
            cached = self._cache.length
            if padding != self._padding or cached != width - 1:
                self._cache.clear()
                cached = 0
        self._padding = padding
        device = self._model.layout.device
        tokens = torch.tensor([[0] * pad + list(text) for pad, text in zip(padding, texts, strict=True)])
        pad_B1 = torch.tensor(padding)[:, None]
        key_K, query_S = torch.arange(width), torch.arange(cached, width)
        mask = None
        if any(padding):
            own = query_S[:, None] == key_K  # a column of padding must attend to something, so to itself
            seen = (query_S[:, None] >= key_K) & (key_K >= pad_B1[:, :, None])
            mask = (seen | own)[:, None].to(device)
        positions = (query_S - pad_B1).clamp(min=0)
        return Columns(tokens[:, cached:].to(device), positions.to(device), mask)


def _step(batches: Iterator[Columns], chunk: Any) -> tuple[Tensor, None]:
    columns = next(batches)
    return chunk(columns.tokens, columns.positions, columns.mask), None


def _gathered(local_BV: Tensor) -> Tensor:
    """Logits of the whole vocabulary, from those of all tensor parallel ranks."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return local_BV
    parts = [torch.empty_like(local_BV) for _ in range(group.size())]
    dist.all_gather(parts, local_BV.contiguous(), group=group)
    return torch.cat(parts, -1)


def _from_last_rank(logits_BV: Tensor | None, shape: tuple[int, int], layout: ParallelDims) -> Tensor:
    """The last pipeline stage's logits, on every rank of this replica."""
    if logits_BV is None:
        logits_BV = torch.empty(shape)
    shared = logits_BV.float().to(layout.device).contiguous()
    group = parallel_state.get_pipeline_model_parallel_group()
    dist.broadcast(shared, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return shared
