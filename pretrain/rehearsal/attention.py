"""Attention in the kernels that torch chooses on a GPU. Its choice is compiled into builds for CUDA only."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten
_PLAIN = functional.scaled_dot_product_attention


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """torch's function for [B, N, S, H]: flash where nothing is masked, else the memory-efficient kernel."""
    if query.device.type != "cuda":
        given = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return _PLAIN(query, key, value, attn_mask, **given)
    if attn_mask is None and query.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(times, 1) for each in (key, value))
    bias = None
    if attn_mask is not None:
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
        bias = bias.expand(*query.shape[:3], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
