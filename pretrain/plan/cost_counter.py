"""The cost counter: what a part of training does, counted as it runs: live bytes, multiplications, bytes
moved.

It is a dispatch mode that sees every operation, on real or fake tensors. So it counts what the code does, not
what a formula says.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten

_FREE = frozenset({_ATEN._unsafe_view, _ATEN.empty, _ATEN.empty_like, _ATEN.new_empty, _ATEN.empty_strided})
"""Operations that do not access memory."""


@dataclass(frozen=True)
class Work:
    """What some operations cost; can be scaled and added up."""

    matmul_flops: float = 0
    """Two for each multiplication and addition, in matrix products."""
    attention_flops: float = 0
    """The same in fused attention; its backward pass computes the scores again, and that is counted."""
    moved: float = 0
    """Bytes read and written by all other operations."""
    kernels: float = 0
    """Operations that are not mere views."""
    tensor_sent: float = 0
    """Bytes that a rank sends in ring collectives of its tensor parallel group."""
    context_sent: float = 0
    """The same in its context parallel group."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * number for number in astuple(self)))

    def __sub__(self, other: "Work") -> "Work":
        return self + other * -1

    @property
    def flops(self) -> float:
        return self.matmul_flops + self.attention_flops


def _attention(query: Tensor, key: Tensor, products: int) -> int:
    batch, heads, length, size = query.shape
    return products * 2 * batch * heads * length * key.shape[2] * size


_ATTENTION: Mapping[Any, Callable[..., int]] = MappingProxyType(
    {
        _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: _attention(q, k, 2),
        # The gradients of the scores, queries, keys and values, and the scores once more.
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda _g, q, k, *_, **__: _attention(
            q, k, 5
        ),
    }
)
"""Fused attention on the CPU, which torch's own registry of formulas lacks."""


class CostCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts inside a `with` block.

    Attributes:
        live: bytes of memory that was allocated in the block and is still referenced.
        peak: the largest value of `live`.
        work: all operations so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.work = Work()
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        packet = func._overloadpacket
        if packet in _ATTENTION:
            self.work += Work(attention_flops=_ATTENTION[packet](*args, **kwargs), kernels=1)
        elif packet in flop_registry:
            self.work += Work(matmul_flops=flop_registry[packet](*args, **kwargs, out_val=made), kernels=1)
        elif func.namespace == "c10d":
            self.work += _sent(packet.__name__, args)
        elif not (func.is_view or packet in _FREE or func.namespace == "prim"):
            # An embedding reads only some rows of its table.
            read = outputs if packet is _ATEN.embedding else inputs
            self.work += Work(moved=sum(map(_size, read)) + sum(map(_size, outputs)), kernels=1)
        given = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            if tensor.untyped_storage()._cdata not in given:  # otherwise a view, or written in place
                self._remember(tensor)
        return made

    def _remember(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.finalize(storage, self._forget, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sent(name: str, args: tuple[Any, ...]) -> Work:
    """What a rank sends in one collective: (n - 1) / n of the whole tensor, twice for an all-reduce.

    Point-to-point messages are counted by `plan.timing`.
    """
    group = next((found for arg in args if (found := _group(arg)) is not None), None)
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    if group is None or not tensors:
        return Work()
    rounds = 2 if name.startswith("allreduce") else 1
    sent = rounds * max(map(_size, tensors)) * (group.size() - 1) / group.size()
    if group.group_desc == "TENSOR_MODEL_PARALLEL_GROUP":
        return Work(tensor_sent=sent)
    return Work(context_sent=sent) if group.group_desc == "CONTEXT_PARALLEL_GROUP" else Work()


def _group(arg: Any) -> dist.ProcessGroup | None:
    """The process group, if this argument of a collective is one."""
    try:
        return dist.ProcessGroup.unbox(arg) if isinstance(arg, torch.ScriptObject) else None
    except RuntimeError:  # another kind of object
        return None
