"""Parameter mappings: how a logical tensor of ours is split into Hugging Face's, and joined again, bit by
bit.

Shape legend: H hidden, F feed-forward width, N heads, G key/value heads, D head size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config.derived import ffn_hidden_size, padded_vocab_size, query_groups
from pretrain.config.sections import TextModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParamMapping:
    """One logical tensor, and the tensors that hold the same numbers on the other side."""

    key: str
    """Our logical name."""
    names: tuple[str, ...]
    """Their names."""
    shapes: tuple[Shape, ...]
    """Their shapes."""
    split: Callable[[Tensor], Sequence[Tensor]]
    """From our whole tensor to theirs; views if possible."""
    join: Callable[[Sequence[Tensor]], Tensor]
    """Inverse of `split`; rows that pad the vocabulary are zero."""


@dataclass(frozen=True)
class Sizes:
    """The numbers that shapes are made of."""

    hidden: int
    ffn: int
    heads: int
    groups: int
    vocabulary: int
    rows: int
    """Rows of the embedding, including padding."""

    @classmethod
    def of(cls, model: TextModelConfig, vocab_size: int) -> "Sizes":
        return cls(
            model.hidden_size,
            ffn_hidden_size(model),
            model.num_attention_heads,
            query_groups(model),
            vocab_size,
            padded_vocab_size(vocab_size, model.vocab_multiple),
        )

    @property
    def head(self) -> int:
        return self.hidden // self.heads


def same(key: str, name: str, *shape: int) -> ParamMapping:
    return ParamMapping(key, (name,), (shape,), lambda whole: (whole,), lambda parts: parts[0])


def transposed(key: str, name: str, rows: int, columns: int) -> ParamMapping:
    """Ours is [rows, columns], theirs the transpose."""
    return ParamMapping(
        key, (name,), ((columns, rows),), lambda whole: (whole.t(),), lambda parts: parts[0].t()
    )


def vocabulary(key: str, name: str, sizes: Sizes, *shape: int) -> ParamMapping:
    """A tensor with a row for each id: without the rows that pad it."""

    def pad(parts: Sequence[Tensor]) -> Tensor:
        after = [0, 0] * len(shape) + [0, sizes.rows - sizes.vocabulary]
        return F.pad(parts[0], after)

    return ParamMapping(
        key, (name,), ((sizes.vocabulary, *shape),), lambda whole: (whole[: sizes.vocabulary],), pad
    )


def gated(key: str, names: tuple[str, str], sizes: Sizes, *shape: int) -> ParamMapping:
    """Gate and up projection, [F, ...] each, one after the other in ours."""
    return ParamMapping(
        key,
        names,
        ((sizes.ffn, *shape),) * 2,
        lambda whole: torch.split(whole, sizes.ffn),
        lambda parts: torch.cat([*parts]),
    )


def qkv(key: str, names: tuple[str, str, str], sizes: Sizes, *shape: int) -> ParamMapping:
    """Query, key and value: [N D, ...], [G D, ...], [G D, ...] there.

    Ours has, for each key/value head, its queries, its key and its value.
    """
    shares = [sizes.heads // sizes.groups * sizes.head, sizes.head, sizes.head]

    def split(whole: Tensor) -> Sequence[Tensor]:
        grouped = whole.view(sizes.groups, sum(shares), *shape)
        return [part.reshape(-1, *shape) for part in torch.split(grouped, shares, 1)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        grouped = [
            part.reshape(sizes.groups, share, *shape) for part, share in zip(parts, shares, strict=True)
        ]
        return torch.cat(grouped, 1).view(-1, *shape)

    shapes = tuple((sizes.groups * share, *shape) for share in shares)
    return ParamMapping(key, names, shapes, split, join)


def fused_qkv(key: str, name: str, sizes: Sizes, *, bias: bool) -> ParamMapping:
    """As `qkv`, with the three joined along the last axis of a single transposed tensor (GPT-2)."""
    three = qkv(key, ("q", "k", "v"), sizes, *(() if bias else (sizes.hidden,)))

    def split(whole: Tensor) -> Sequence[Tensor]:
        return (torch.cat([*three.split(whole)]).t() if not bias else torch.cat([*three.split(whole)]),)

    def join(parts: Sequence[Tensor]) -> Tensor:
        return three.join(torch.split(parts[0] if bias else parts[0].t(), sizes.hidden))

    shape = (3 * sizes.hidden,) if bias else (sizes.hidden, 3 * sizes.hidden)
    return ParamMapping(key, (name,), (shape,), split, join)


def pair(key: str, name: str, *shape: int) -> Iterator[ParamMapping]:
    yield same(f"{key}.weight", f"{name}.weight", *shape)
    yield same(f"{key}.bias", f"{name}.bias", shape[0])
