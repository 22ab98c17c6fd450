"""Object collectives without pickle: a peer can send only plain data, and unpickling is an error.

torch's `all_gather_object` and similar functions unpickle what the other ranks send, so anyone who passes for
a rank can run code on all of them. megatron-core calls one of them while it groups parameters. All of torch's
go through the two functions that are replaced here, and so do those of megatron-core and DeepSpeed.
"""

import json
from typing import Any

import torch
import torch.distributed.distributed_c10d as c10d
from torch import Tensor

MAX_BYTES = 64 * 2**20
"""Maximum size of one object from a peer."""


def install() -> None:
    """Replace the two functions; once per process, before the first group.

    Raises RuntimeError: this torch lacks the functions of the tested version.
    """
    if not (callable(getattr(c10d, "_object_to_tensor", None)) and hasattr(c10d, "_tensor_to_object")):
        raise RuntimeError(f"torch {torch.__version__} sends objects in another way than the tested version")
    c10d._object_to_tensor = _object_to_tensor
    c10d._tensor_to_object = _tensor_to_object
    for name in ("_pickler", "_unpickler"):
        setattr(c10d, name, _refuse)


def _object_to_tensor(value: Any, device: torch.device, group: Any) -> tuple[Tensor, Tensor]:
    """The bytes of an object and their number, as torch's own function returns them.

    Raises TypeError: it is not plain data.
    """
    raw = json.dumps(_tagged(value)).encode()
    sent = torch.frombuffer(bytearray(raw), dtype=torch.uint8).clone().to(device)  # torch will resize it
    return sent, torch.tensor([sent.numel()], dtype=torch.int64, device=device)


def _tensor_to_object(tensor: Tensor, size: Tensor | int, group: Any) -> Any:
    """The object that a peer sent. Raises ValueError: the bytes are not plain data, or too many."""
    if not 0 <= int(size) <= min(tensor.numel(), MAX_BYTES):
        raise ValueError(f"a peer sent an object of {int(size):,} bytes; at most {MAX_BYTES:,} are read")
    return _untagged(json.loads(bytes(tensor.cpu().numpy()[: int(size)]).decode()))


def _tagged(value: Any) -> Any:
    """A JSON form that distinguishes tuples from lists and keeps keys that are not text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return {"list": [_tagged(item) for item in value]}
    if isinstance(value, tuple):
        return {"tuple": [_tagged(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} is no plain data: ranks exchange no objects of a class")


def _untagged(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, items), *more = value.items()
    if more or kind not in ("list", "tuple", "dict"):
        raise ValueError(f"a peer sent {kind!r}, which is no plain data")
    if kind == "dict":
        return {_untagged(key): _untagged(item) for key, item in items}
    found = [_untagged(item) for item in items]
    return found if kind == "list" else tuple(found)


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("ranks exchange no pickles: unpickling runs whatever code its sender chose")
