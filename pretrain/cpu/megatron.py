"""Everything megatron-core needs to run without CUDA; the only file that patches it.

megatron-core 0.16 asks `torch.cuda` for the current device, keeps its random streams on the CUDA generator
and names the device 'cuda' literally in its schedules and optimizers. On a machine without CUDA the
replacements below apply; with CUDA nothing is changed. Call `install()` once, before the first group is made.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch

# Here, and not in install(), because megatron-core compiles small functions while it is imported. We do not
# call them on a CPU, but they alone would load torch's compiler, a quarter of the time to the first step.
if not torch.cuda.is_available():
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

TESTED_MEGATRON = "0.16.1"

_TENSOR_TYPE = torch.Tensor.type


FACTORIES = ("arange", "empty", "full", "ones", "tensor", "zeros")

MODULES_THAT_NAME_CUDA = (
    "pipeline_parallel.schedules",
    "optimizer.clip_grads",
    "optimizer.distrib_optimizer",
    "optimizer.grad_scaler",
    "optimizer.optimizer",
    "models.common.embeddings.rope_utils",
    "rerun_state_machine",
    "tensor_parallel.data",
    "transformer.utils",
    "utils",
)
"""Modules of megatron.core with a literal device='cuda' or pin_memory=True. If one is missing here, it fails
with torch's own error, since no such tensor can be created without CUDA."""


class _CpuTorch:
    """Replaces `torch` in those modules: the same, but its factories create every tensor on the CPU.

    A torch function mode would do it in fewer lines, but adds overhead to each of the thousand torch calls of
    a step.
    """

    def __init__(self) -> None:
        for name in FACTORIES:
            setattr(self, name, _on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


def _type_as_on_cuda(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.type`, returning 'torch.cuda.FloatTensor' as megatron's optimizers expect."""
    answer = _TENSOR_TYPE(tensor, *args, **kwargs)
    return answer.replace("torch.", "torch.cuda.") if isinstance(answer, str) else answer


def require_tested_megatron() -> None:
    """Refuse any megatron-core version but the one with which the patches and private names were tested.

    Raises RuntimeError: another version is installed.
    """
    found = version("megatron-core")
    if found != TESTED_MEGATRON:
        raise RuntimeError(
            f"megatron-core {found} is installed, but this version of pretrain is tested with "
            f"{TESTED_MEGATRON} only: pip install -c constraints.txt megatron-core=={TESTED_MEGATRON}"
        )


def install() -> bool:
    """Patch torch and megatron-core for the CPU.

    Returns:
        True if patches were needed, False on a machine with CUDA.
    """
    require_tested_megatron()
    if torch.cuda.is_available() or torch.cuda.current_device is cpu_device:
        return False
    torch.cuda.current_device = cpu_device
    torch.cuda.synchronize = lambda *args, **kwargs: None
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    _use_cpu_generator()
    _keep_freed_memory()
    _use_products()
    torch.Tensor.type = _type_as_on_cuda  # type: ignore[method-assign, assignment]
    for name in MODULES_THAT_NAME_CUDA:
        vars(import_module(f"megatron.core.{name}"))["torch"] = _CpuTorch()
    return True


def _keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees, for reuse by the next step.

    By default it returns large blocks to the kernel at once, which has to zero and map their pages again: ten
    thousand page faults a step and 5 to 10 % of its time for a model of 4 million parameters.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 * 2**20)
    mallopt(mmap_threshold, 32 * 2**20)  # the largest value that it accepts


def _use_products() -> None:
    """Make megatron's parallel layers use the products of `pretrain.cpu.linear`."""
    from megatron.core.tensor_parallel import layers

    from pretrain.cpu.linear import linear_on_cpu

    layers.linear_with_grad_accumulation_and_async_allreduce = linear_on_cpu


def cpu_device() -> Any:
    return "cpu"


def _seed_cpu(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def _use_cpu_generator() -> None:
    """Keep megatron's named random streams on the CPU generator."""
    from megatron.core.tensor_parallel import random as megatron_random

    torch.cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    torch.cuda.manual_seed = _seed_cpu
    megatron_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # Its fork() warns on every use that the CPU stream has advanced, which is intended here.
    logging.getLogger(megatron_random.__name__).addFilter(
        lambda record: "CPU RNG state changed" not in record.getMessage()
    )
