"""The pretended GPU: tensors on `cuda:0` have shapes and no values, tensors on the CPU are real.

torch's fake tensors do the work; as on a real GPU, an operation refuses operands of both devices. What the
host reads from the GPU is what it has sent there, if nothing was done to that, and ones otherwise. So code
that decides by values goes on as for finite numbers.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FakeWork
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pretrain.rehearsal.events import Event, Events, What

aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.is_nonzero, aten.equal)
SIZED_BY_VALUES = (aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive, aten.bincount)
"""Operations whose result has a size that the host must wait for."""
SENT, FEW = "sent_by_host", 1024
"""Attribute of a tensor with the values that the host has sent, if they are few."""


class FakeGpu(TorchDispatchMode):
    """Sends each operation to the CPU, or to fake tensors, and notes what a GPU would wait for."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events
        self._fake = FakeTensorMode()
        self._pinned: dict[int, torch.UntypedStorage] = {}  # held, so that no other gets its number
        self._stack = ExitStack()
        self._without_cpu: set[str] = set()

    def has_no_cpu(self, group: Any) -> None:
        """Say that a group's backend is NCCL alone."""
        self._without_cpu.add(group.group_name)

    def __enter__(self) -> "FakeGpu":
        # torch.tensor(..., device="cuda") is otherwise made where no dispatch mode sees it.
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        packet = operation._overloadpacket
        if packet is torch.ops.prim.device:
            return args[0].fake_device
        if operation.namespace == "c10d":
            return self._collective(operation, args, kwargs)
        if (done := self._pinning(packet, args, kwargs)) is not None:
            return done
        operands = list(_tensors(args, kwargs))
        device = kwargs.get("device")
        made_there = device is not None and torch.device(device).type == "cuda"
        if not made_there and not any(map(_is_fake, operands)):
            return operation(*args, **kwargs)
        if packet in READS:
            event = self._events.note(What.SYNC, str(packet))
            return _number(args[0], event) if packet is aten._local_scalar_dense else True
        if packet in SIZED_BY_VALUES:
            self._events.note(What.SYNC, str(packet))
        if packet in (aten.copy_, aten._to_copy):
            self._check_copy(packet, args, kwargs)
            if packet is aten.copy_ and not _is_fake(args[0]):
                return args[0].fill_(1)
        with self._fake:
            if not all(map(_is_fake, operands)):
                args, kwargs = tree_map(_as_fake, (args, kwargs))
            result = operation(*args, **kwargs)
        if operation._schema.is_mutable:
            for operand in operands:
                operand.__dict__.pop(SENT, None)
        if packet in (aten._to_copy, aten.detach):
            return _copied(operands[0], result)
        if _is_fake(result) and result.fake_device.type == "cuda":
            return result
        return tree_map(_as_real, result)

    def _pinning(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What pins memory or asks for it; None for everything else."""
        if packet is aten.is_pinned:
            return self._is_pinned(args[0])
        if packet is aten._pin_memory:
            return self._pin(args[0].clone())
        if kwargs.pop("pin_memory", None):
            return self._pin(packet(*args, **kwargs))
        return None

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage._cdata] = storage
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not _is_fake(tensor) and tensor.untyped_storage()._cdata in self._pinned

    def _check_copy(self, packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if packet is aten.copy_:
            target, source, *more = args
            to, waits = target.device.type, not (more[0] if more else kwargs.get("non_blocking"))
            host = source if _is_fake(target) else target
        else:
            source = host = args[0]
            to = torch.device(kwargs.get("device") or source.device).type
            waits = not kwargs.get("non_blocking")
            if to == "cpu":
                # Copied into new memory that is not pinned, which waits whatever was asked for.
                waits = True
        if source.device.type == to:
            return
        pinned = self._is_pinned(host)
        if waits or not pinned:
            how = "waits" if waits else "not pinned"
            self._events.note(
                What.BUS, f"{source.device.type} to {to}, {tuple(source.shape)} {source.dtype}, {how}"
            )

    def _collective(self, operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A collective among ranks of which only this one is there: done at once, and nothing has changed."""
        if not any(_is_fake(each) for each in tree_leaves(args)):
            if (group := _group_of(args)) is not None and group.group_name in self._without_cpu:
                self._events.note(What.CPU_COLLECTIVE, f"{operation._overloadpacket} in {group.group_desc}")
            return operation(*args, **kwargs)
        work = FakeWork().boxed()
        found = [args[0] if "Tensor" in str(each.type) else work for each in operation._schema.returns]
        return found[0] if len(found) == 1 else tuple(found)


def _group_of(args: tuple[Any, ...]) -> Any:
    boxed = [value for value in args if isinstance(value, torch.ScriptObject)]
    groups = [value for value in boxed if "ProcessGroup" in str(value._type())]
    return dist.ProcessGroup.unbox(groups[0]) if groups else None


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Those of an operation's arguments, which are at most in lists; faster than torch's trees."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (each for each in value if isinstance(each, Tensor))


def _is_fake(value: Any) -> bool:
    return isinstance(value, FakeTensor)


def _as_fake(value: Any) -> Any:
    """A CPU tensor's stand-in beside CUDA tensors; torch raises if they may not meet."""
    if not isinstance(value, Tensor) or _is_fake(value):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def _as_real(value: Any) -> Any:
    """What arrives on the CPU: ones."""
    if not _is_fake(value) or value.fake_device.type != "cpu":
        return value
    return torch.ones(value.shape, dtype=value.dtype)


def read_back(tensor: Tensor) -> Tensor:
    """The values that the host sees of a tensor on the GPU."""
    sent = getattr(tensor, SENT, None)
    return torch.ones(tensor.shape, dtype=tensor.dtype) if sent is None else sent.to(tensor.dtype)


def _copied(source: Tensor, result: Tensor) -> Tensor:
    """A copy, with the values that the host knows of."""
    if result.device.type == "cpu":
        return read_back(source)
    if source.numel() <= FEW:
        sent = getattr(source, SENT, None) if _is_fake(source) else source.clone()
        if sent is not None:
            setattr(result, SENT, sent)
    return result


def _number(tensor: Tensor, event: Event) -> bool | int | float:
    """The number that was read."""
    if hasattr(tensor, SENT):
        return read_back(tensor).item()
    dtype = tensor.dtype
    if dtype in (torch.bool, torch.uint8):
        # DeepSpeed asks whether a number overflowed, all others whether it is finite.
        return not event.is_deepspeeds
    return 1.0 if dtype.is_floating_point else 1
