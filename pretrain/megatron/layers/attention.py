"""Core attention on torch's scaled_dot_product_attention, in place of megatron's unfused one.

It supports tensor parallelism (heads are split before it), context parallelism (keys and values are gathered;
the sequence is laid out in zigzag order so that every rank does the same work), masks, windows and soft-caps.

Shape legend: S local sequence, K keys (= S x context parallel size), B micro-batch, N local heads, G local
key/value heads, H head size.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.cpu.products.choice import in_force


def zigzag_positions(rank: int, size: int, sequence_length: int) -> Tensor:
    """Positions of the sequence that context rank `rank` of `size` holds, [sequence_length / size] int64.

    The sequence is cut into 2 x size chunks, and a rank holds chunk `rank` from the front and from the back,
    so that causal attention costs every rank the same (Brandon et al. 2023, "Striped attention"; the layout
    is megatron-core's).
    """
    chunk = sequence_length // (2 * size)
    steps = torch.arange(chunk)
    return torch.cat([rank * chunk + steps, (2 * size - 1 - rank) * chunk + steps])


def gathered_positions(size: int, sequence_length: int) -> Tensor:
    """Position of each key after the all-gather over context ranks, [sequence_length] int64."""
    return torch.cat([zigzag_positions(rank, size, sequence_length) for rank in range(size)])


def attention_mask(
    document_ids_BS: Tensor | None, context_rank: int, context_size: int, sequence_length: int
) -> Tensor | None:
    """Which keys each local query may see.

    Args:
        document_ids_BS: [B, full sequence] document of each token; attention stays within it. None: no limit.
        context_rank: rank in the context parallel group.
        context_size: size of that group.
        sequence_length: full sequence length.

    Returns:
        Boolean [B or 1, 1, S, K], True where the query may look; None if plain causal attention is enough.
    """
    if context_size == 1 and document_ids_BS is None:
        return None
    query_S = zigzag_positions(context_rank, context_size, sequence_length)
    key_K = gathered_positions(context_size, sequence_length)
    if context_size == 1:
        query_S = key_K = torch.arange(sequence_length)
    visible = (query_S[:, None] >= key_K[None, :])[None]
    if document_ids_BS is not None:
        same = document_ids_BS[:, query_S][:, :, None] == document_ids_BS[:, key_K][:, None, :]
        visible = visible & same
    return visible[:, None]


def within_window(
    mask: Tensor | None,
    window: int,
    queries: int,
    keys: int,
    context_rank: int,
    context_size: int,
    device: torch.device,
) -> Tensor:
    """Which keys each local query may see, of the `window` tokens that end with its own.

    Args:
        mask: boolean, broadcastable to [B, N, S, K]; None: all that are not behind the query.
        window: tokens, at least 1.
        queries: S, the last tokens of the sequence if it is on one rank.
        keys: K.
        context_rank: rank in the context parallel group.
        context_size: size of that group.
        device: of the result.

    Returns:
        Boolean, [B or 1, N or 1, S, K] or [S, K].
    """
    if context_size > 1:
        query_S = zigzag_positions(context_rank, context_size, keys)
        key_K = gathered_positions(context_size, keys)
    else:
        key_K = torch.arange(keys)
        query_S = key_K[keys - queries :]
    query_S1, key_K = query_S.to(device)[:, None], key_K.to(device)
    inside = key_K > query_S1 - window
    return inside & (key_K <= query_S1 if mask is None else mask)


def capped(scores: Tensor, cap: float) -> Tensor:
    """Scores, any shape, bent so that they stay within plus and minus `cap`."""
    return torch.tanh(scores / cap) * cap


class _GatherSequence(torch.autograd.Function):
    """All-gather along dimension 0; its gradient is the reduce-scatter of the gradients."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        full = local.new_empty((group.size() * local.shape[0], *local.shape[1:]))
        dist.all_gather_into_tensor(full, local.contiguous(), group=group)
        return full

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        local = gradient.new_empty((gradient.shape[0] // ctx.group.size(), *gradient.shape[1:]))
        dist.reduce_scatter_tensor(local, gradient.contiguous(), group=ctx.group)
        return local, None


class LayerCache:
    """Keys and values of one layer, [B, G, capacity, H] each; the first `length` tokens are filled.

    Args:
        rows: B.
        capacity: tokens at most.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity, self.length = rows, capacity, 0
        self._both: tuple[Tensor, Tensor] | None = None

    def extend(self, key_BGSH: Tensor, value_BGSH: Tensor) -> tuple[Tensor, Tensor]:
        """Add tokens, and return all keys and values so far."""
        if self._both is None:
            shape = (self.rows, key_BGSH.shape[1], self.capacity, key_BGSH.shape[3])
            self._both = key_BGSH.new_empty(shape), value_BGSH.new_empty(shape)
        stop = self.length + key_BGSH.shape[2]
        for cached, new in zip(self._both, (key_BGSH, value_BGSH), strict=True):
            cached[:, :, self.length : stop] = new
        self.length = stop
        return self._both[0][:, :, :stop], self._both[1][:, :, :stop]


class SDPACoreAttention(MegatronModule):  # type: ignore[misc]
    """The `core_attention` slot of a megatron-core layer.

    The constructor's arguments are the slot's, and two more.

    Args:
        windows: how many tokens each layer of the whole model attends to, None for all; empty: all to all.
        softcap: what scores are bent to stay within; None: they are not.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        windows: Sequence[int | None] = (),
        softcap: float | None = None,
    ) -> None:
        super().__init__(config=config)
        self.causal = attn_mask_type == AttnMaskType.causal
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale
        self.context_group = pg_collection.cp if config.context_parallel_size > 1 else None
        self.grouped = config.num_query_groups != config.num_attention_heads
        self.cache: LayerCache | None = None
        self.window = windows[layer_number - 1] if windows else None
        self.softcap = softcap

    def forward(
        self,
        query_SBNH: Tensor,
        key_SBGH: Tensor,
        value_SBGH: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attend.

        Args:
            query_SBNH: queries of the local part of the sequence.
            key_SBGH: keys of the local part of the sequence.
            value_SBGH: values of the local part of the sequence.
            attention_mask: boolean, broadcastable to [B, N, S, K], True where a query may look; None: causal.
                With tokens in the cache, K counts these too, and None is only for a single new token.
            attn_mask_type: required by the slot; the constructor's counts.
            attention_bias: must be None.
            packed_seq_params: must be None.

        Returns:
            [S, B, N x H].
        """
        if self.context_group is not None:
            # Keys and values in one message.
            both: Tensor = _GatherSequence.apply(  # type: ignore[no-untyped-call]
                torch.cat([key_SBGH, value_SBGH], -1), self.context_group
            )
            key_SBGH, value_SBGH = torch.split(both, [key_SBGH.shape[-1], value_SBGH.shape[-1]], -1)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query_SBNH, key_SBGH, value_SBGH))
        if self.cache is not None:
            k, v = self.cache.extend(k, v)
        if self.training and q.device.type == "cpu" and in_force().widens(q.dtype):
            # torch's backward pass in bf16 takes five times as long where bf16 is slow.
            q, k, v = q.float(), k.float(), v.float()
        if self.window is not None and self.window < k.shape[2]:
            k, v, attention_mask = self._in_window(q, k, v, attention_mask)
        dropout = self.dropout if self.training else 0.0
        # Heads differ between tensor parallel ranks, so their dropout masks must too. Under sequence
        # parallelism the whole layer already runs in that random stream.
        fork = dropout > 0 and not self.config.sequence_parallel
        with tensor_parallel.get_cuda_rng_tracker().fork() if fork else nullcontext():
            # torch's causal mask starts at the first key, so it is wrong for a query behind cached keys.
            causal = self.causal and attention_mask is None and q.shape[2] == k.shape[2]
            if self.softcap is not None:
                out_BNSH = self._soft_capped(q, k, v, attention_mask, causal, dropout)
            else:
                out_BNSH = F.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    attn_mask=attention_mask,
                    dropout_p=dropout,
                    is_causal=causal,
                    scale=self.scale,
                    enable_gqa=self.grouped,
                )
        return out_BNSH.permute(2, 0, 1, 3).flatten(2).to(query_SBNH.dtype)

    def _in_window(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values that some query has in its window, [B, G, K, H], and which of them each may see."""
        assert self.window is not None
        queries, keys = q.shape[2], k.shape[2]
        if self.context_group is not None:
            rank, size = self.context_group.rank(), self.context_group.size()
            return k, v, within_window(mask, self.window, queries, keys, rank, size, q.device)
        first = max(0, keys - queries - self.window + 1)
        k, v, mask = k[:, :, first:], v[:, :, first:], None if mask is None else mask[..., first:]
        if queries == 1:
            return k, v, mask
        return k, v, within_window(mask, self.window, queries, keys - first, 0, 1, q.device)

    def _soft_capped(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
    ) -> Tensor:
        """Attention with bent scores, [B, N, S, H]; torch's fused kernels cannot bend them."""
        assert self.softcap is not None
        grouped_q = q.reshape(q.shape[0], k.shape[1], -1, *q.shape[2:])  # [B, G, N / G, S, H]
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = capped((grouped_q @ k.unsqueeze(2).mT).float() * scale, self.softcap)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            mask = mask.unsqueeze(2) if mask.dim() == 4 else mask  # [B, 1, S, K] beside groups
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = F.dropout(scores.softmax(-1).to(v.dtype), dropout)
        return (weights @ v.unsqueeze(2)).flatten(1, 2)
