"""Keys and values of the tokens so far, so that each new token costs one column instead of the whole text.

The cache is attached to the core attention of each layer: new keys and values are appended, and queries see
all of them. Rotary positions continue where the cache ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pretrain.megatron.layers.attention import LayerCache, SDPACoreAttention


class KeyValueCache:
    """The caches of all layers of a GPT's chunk; all have the same number of tokens."""

    def __init__(self, layers: list[LayerCache]) -> None:
        self._layers = layers

    @property
    def length(self) -> int:
        return self._layers[0].length

    def clear(self) -> None:
        for layer in self._layers:
            layer.length = 0


class _Continued(torch.nn.Module):
    """Rotary embeddings of positions that begin where the cache ends."""

    def __init__(self, inner: Any, cache: KeyValueCache, capacity: int) -> None:
        super().__init__()
        self.get_rotary_seq_len = inner.get_rotary_seq_len
        self._cache, self._all = cache, inner(capacity)

    def forward(self, length: int, **_: Any) -> Tensor:
        """[length, 1, 1, head size]."""
        embeddings: Tensor = self._all[self._cache.length : self._cache.length + length]
        return embeddings


@contextmanager
def caching(chunk: Any, rows: int, capacity: int) -> Iterator[KeyValueCache]:
    """Give a chunk a cache for as long as the `with` block lasts.

    Args:
        chunk: of a GPT, in evaluation mode.
        rows: texts of a batch.
        capacity: tokens of a text at most.
    """
    attentions = [module for module in chunk.modules() if isinstance(module, SDPACoreAttention)]
    cache = KeyValueCache([LayerCache(rows, capacity) for _ in attentions])
    for attention, layer in zip(attentions, cache._layers, strict=True):
        attention.cache = layer
    rotary = getattr(chunk, "rotary_pos_emb", None)
    if rotary is not None:
        chunk.rotary_pos_emb = _Continued(rotary, cache, capacity)
    try:
        yield cache
    finally:
        if rotary is not None:
            chunk.rotary_pos_emb = rotary
        for attention in attentions:
            attention.cache = None
