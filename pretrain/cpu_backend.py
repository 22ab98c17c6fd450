"""Everything megatron-core needs to run without CUDA; the only file that patches it.

megatron-core 0.16 asks `torch.cuda` for the current device, keeps its random streams on the CUDA generator
and names the device 'cuda' literally in its schedules and optimizers. On a machine without CUDA the
answers below stand in; with CUDA nothing is touched. Call `install()` once, before the first group is made.
"""

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

TESTED_MEGATRON = "0.16.1"

_TENSOR_TYPE = torch.Tensor.type


class _CudaMeansCpu(TorchFunctionMode):
    """`device='cuda'` means the CPU, and a CPU tensor's legacy type name says cuda, as the literals in
    megatron's schedules.py, optimizer.py, distrib_optimizer.py and clip_grads.py expect."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if kwargs:
            if kwargs.get("device") == "cuda":
                kwargs = {**kwargs, "device": "cpu"}
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
            return func(*args, **kwargs)
        if func is _TENSOR_TYPE and len(args) == 1:
            return func(*args).replace("torch.", "torch.cuda.")
        return func(*args)


def require_tested_megatron() -> None:
    """Refuse any megatron-core but the one that the patches and the private names we use were tested with.

    Raises:
        RuntimeError: another version is installed.
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
        True where patches were needed, False on a machine with CUDA.
    """
    require_tested_megatron()
    if torch.cuda.is_available() or torch.cuda.current_device is _cpu_device:
        return False
    torch.cuda.current_device = _cpu_device
    torch.cuda.synchronize = lambda *args, **kwargs: None
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    _use_cpu_generator()
    _CudaMeansCpu().__enter__()  # type: ignore[no-untyped-call]
    return True


def _cpu_device() -> Any:
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
    # Its fork() warns on every use that the CPU stream moved, which is the point here.
    logging.getLogger(megatron_random.__name__).addFilter(
        lambda record: "CPU RNG state changed" not in record.getMessage()
    )
