"""Collectives of plain values: rank 0 decides, and every rank gets the same result or raises the same error.

What only rank 0 may do (take a lock, read a folder, choose a checkpoint) can fail. If it failed on rank 0
alone, the others would wait for it in their next collective; so all ranks raise what it raised.
"""

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from pretrain.distributed.world import DistContext
from pretrain.errors import IntegrityError, OutputError, UserError, machine_error

T = TypeVar("T")
_KINDS: dict[str, type[UserError]] = {
    kind.__name__: kind for kind in (UserError, IntegrityError, OutputError)
}


def broadcast_from_rank0(world: DistContext, decide: Callable[[], T]) -> T:
    """Call `decide` on rank 0 and give every rank its result.

    Args:
        world: all its ranks call this together.
        decide: returns something that JSON can represent.

    Raises:
        UserError, IntegrityError: on every rank, what `decide` raised.
        OutputError: on every rank, for an error of the machine.
    """
    answer = ""
    failure: BaseException | None = None
    if world.is_first:
        try:
            answer = json.dumps({"value": decide()})
        except UserError as error:
            kind = "IntegrityError" if isinstance(error, IntegrityError) else "UserError"
            answer = json.dumps({"error": kind, "message": error.text, "key": error.key})
        except BaseException as error:
            refused = machine_error(error)
            failure = None if refused else error
            kind = "OutputError" if refused else "UserError"
            message = refused or f"rank 0 failed: {type(error).__name__}: {error}"
            answer = json.dumps({"error": kind, "message": message})
    text = broadcast_text(world, answer)
    if failure is not None:
        raise failure
    outcome = json.loads(text)
    if "error" in outcome:
        raise _KINDS[outcome["error"]](outcome["message"], outcome.get("key"))
    value: T = outcome["value"]
    return value


def broadcast_text(world: DistContext, text: str) -> str:
    """The text that rank 0 passed."""
    if world.size == 1:
        return text
    raw = text.encode()
    size = torch.tensor([len(raw)], dtype=torch.int64)
    torch.distributed.broadcast(size, src=0)
    if not size:
        return ""
    data = torch.frombuffer(bytearray(raw.ljust(int(size), b"\0")), dtype=torch.uint8)[: int(size)].clone()
    torch.distributed.broadcast(data, src=0)
    return bytes(data.numpy()).decode()


def largest(world: DistContext, value: int) -> int:
    """The maximum of all ranks' values."""
    return all_reduce_max(world, [value])[0]


def all_reduce_max(world: DistContext, values: Sequence[int]) -> list[int]:
    """The element-wise maximum of all ranks' values; every rank passes the same number of values."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.int64)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]
