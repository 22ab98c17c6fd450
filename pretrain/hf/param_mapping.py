"""Parameter mappings: how a logical tensor of ours is split into Hugging Face's, and joined again, bit by
bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.hf.modules import Module, Shape, Sizes


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


def mappings(
    module: Module, names: Sequence[str], sizes: Sizes, *, transposed: bool = False
) -> Iterator[ParamMapping]:
    """Of the weight and the bias of a module.

    Args:
        names: their modules, with a `*` for the number of the layer. Three of a `linear_qkv` are query, key
            and value, and two of a gated `linear_fc1` are gate and up projection; one holds them all, one
            after the other.
        transposed: they store weights as [in, out].
    """
    modules = [name.replace("*", str(module.layer)) for name in names]
    for kind, shape in (("weight", module.shape), ("bias", module.shape[:1])):
        if not getattr(module, kind):
            continue
        theirs = tuple(f"{name}.{kind}" for name in modules)
        found = _parts(module.key(kind), theirs, module.name, shape, sizes)
        if len(theirs) < len(found.shapes):
            found = _fused(found)
        if transposed and len(shape) == 2:
            found = _transposed(found)
        yield found


def _parts(key: str, names: tuple[str, ...], module: str, shape: Shape, sizes: Sizes) -> ParamMapping:
    if module.endswith("linear_qkv"):
        return _qkv(key, names, sizes, shape[1:])
    if module in ("embedding.word_embeddings", "output_layer"):
        return _vocabulary(key, names, sizes, shape[1:])
    share = shape[0] // len(names)
    shapes = ((share, *shape[1:]),) * len(names)
    return ParamMapping(key, names, shapes, lambda whole: torch.split(whole, share), _joined)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _qkv(key: str, names: tuple[str, ...], sizes: Sizes, into: Shape) -> ParamMapping:
    """Query, key and value, one after the other there. Ours has, for each key/value head, its queries, its
    key and its value."""
    shares = [sizes.heads // sizes.groups * sizes.head, sizes.head, sizes.head]

    def split(whole: Tensor) -> Sequence[Tensor]:
        grouped = whole.view(sizes.groups, sum(shares), *into)
        return [part.reshape(-1, *into) for part in torch.split(grouped, shares, 1)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        grouped = [part.view(sizes.groups, share, *into) for part, share in zip(parts, shares, strict=True)]
        return torch.cat(grouped, 1).view(-1, *into)

    return ParamMapping(key, names, tuple((sizes.groups * share, *into) for share in shares), split, join)


def _vocabulary(key: str, names: tuple[str, ...], sizes: Sizes, into: Shape) -> ParamMapping:
    """A row for each id: theirs has none that pad it."""
    after = [0, 0] * len(into) + [0, sizes.rows - sizes.vocabulary]
    return ParamMapping(
        key,
        names,
        ((sizes.vocabulary, *into),),
        lambda whole: (whole[: sizes.vocabulary],),
        lambda parts: F.pad(parts[0], after),
    )


def _fused(three: ParamMapping) -> ParamMapping:
    """The same with all parts in one tensor."""
    rows = [shape[0] for shape in three.shapes]
    return ParamMapping(
        three.key,
        three.names,
        ((sum(rows), *three.shapes[0][1:]),),
        lambda whole: (torch.cat([*three.split(whole)]),),
        lambda parts: three.join(torch.split(parts[0], rows)),
    )


def _transposed(mapping: ParamMapping) -> ParamMapping:
    return ParamMapping(
        mapping.key,
        mapping.names,
        tuple(shape[::-1] for shape in mapping.shapes),
        lambda whole: [part.t() for part in mapping.split(whole)],
        lambda parts: mapping.join([part.t() for part in parts]),
    )
