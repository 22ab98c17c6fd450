"""What `torch.cuda` answers while a GPU is pretended, as far as this program and its libraries ask."""

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch._subclasses.fake_tensor as fake_tensor
from torch import Tensor
from torch.nn import functional

from pretrain.rehearsal.attention import attention
from pretrain.rehearsal.device import read_back
from pretrain.rehearsal.events import Events, What

MEMORY = 80 * 2**30
NAME = "a GPU that is pretended"
_CAPABILITY = (9, 0)


class Stream:
    """A stream, and an event, on which everything is done at once."""

    device, stream_id, cuda_stream = torch.device("cuda", 0), 0, 0
    events: Events

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.events.note(What.SYNC, "synchronize()")

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 1.0

    def record_event(self, event: Any = None) -> Any:
        return event or type(self)()

    def wait_stream(self, *_: Any) -> None: ...
    def wait_event(self, *_: Any) -> None: ...
    def record(self, *_: Any) -> None: ...
    def wait(self, *_: Any) -> None: ...

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None: ...


def replacements(events: Events) -> Iterator[tuple[Any, str, Any]]:
    """(where, name, replacement) of everything that must answer otherwise."""
    stream = type("Stream", (Stream,), {"events": events})
    generator = torch.Generator()
    properties = SimpleNamespace(
        name=NAME, major=_CAPABILITY[0], minor=_CAPABILITY[1], total_memory=MEMORY, multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "current_device": 0,
        "device_count": 1,
        "current_stream": stream(),
        "default_stream": stream(),
        "stream": nullcontext(),
        "device": nullcontext(),
        "get_device_name": NAME,
        "get_device_properties": properties,
        "get_device_capability": _CAPABILITY,
        "mem_get_info": (MEMORY, MEMORY),
        "memory_stats": {},
    }
    zero = ("memory_allocated", "memory_reserved", "memory_cached")
    answers |= {f"{most}{name}": 0 for name in zero for most in ("", "max_")}
    nothing = ("init", "_lazy_init", "set_device", "empty_cache", "ipc_collect", "reset_peak_memory_stats")
    nothing += ("reset_max_memory_allocated", "reset_max_memory_cached", "reset_accumulated_memory_stats")
    answers |= dict.fromkeys(nothing)
    for name, answer in answers.items():
        yield torch.cuda, name, _always(answer)
    for name in ("range_push", "range_pop"):
        yield torch.cuda.nvtx, name, _always(0)
    yield torch.cuda, "synchronize", lambda *_: stream().synchronize()
    yield torch.cuda, "Stream", stream
    yield torch.cuda, "Event", stream
    yield torch.cuda, "default_generators", (generator,)
    for name in ("manual_seed", "manual_seed_all"):
        yield torch.cuda, name, generator.manual_seed
    for where in (torch.cuda, torch.cuda.random):
        yield where, "get_rng_state", lambda *_, **__: generator.get_state()
        yield where, "set_rng_state", lambda state, *_, **__: generator.set_state(state)
    yield functional, "scaled_dot_product_attention", attention
    yield Tensor, "type", _type
    yield Tensor, "record_stream", _always(None)
    yield fake_tensor, "init_gpu_context", _always(None)

    def to_list(tensor: Tensor) -> Any:
        # A fake tensor would read its elements one by one.
        events.note(What.SYNC, "tolist")
        return read_back(tensor).tolist()

    yield fake_tensor.FakeTensor, "tolist", to_list
    yield torch.utils, "swap_tensors", _swap


def _always(answer: Any) -> Any:
    return lambda *_, **__: answer


_PLAIN_TYPE = Tensor.type


def _type(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.type`, which names a fake CUDA tensor without its device."""
    answer = _PLAIN_TYPE(tensor, *args, **kwargs)
    on_gpu = isinstance(answer, str) and tensor.device.type == "cuda" and ".cuda." not in answer
    return answer.replace("torch.", "torch.cuda.") if on_gpu else answer


def _swap(parameter: Tensor, other: Tensor) -> None:
    """`Module.to`: the parameter stays the same object. torch's own refuses because fakes are weakly held."""
    parameter.__class__, other.__class__ = other.__class__, parameter.__class__
    parameter.__dict__, other.__dict__ = parameter.__dict__ | other.__dict__, parameter.__dict__
    torch._C._swap_tensor_impl(parameter, other)
