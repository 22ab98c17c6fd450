"""The optimizers of runs that minimise one loss, one record each (`optimizer.kind`).

A new optimizer is a file with a subclass of `torch.optim.Optimizer` and one line here: the config offers it,
and trainers of every kind but GANs make it, clip, set its rate, and save and reshard its state. It must
update each number by itself, since a rank may hold any part of a tensor (tensor parallelism,
distributed_optimizer).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pretrain.kind import Late

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pretrain.config.sections import OptimizerConfig

ADAMW = "adamw"


@dataclass(frozen=True)
class OptimizerRecord:
    """One optimizer."""

    source: str
    """Where it was published."""
    make: "Callable[[list[dict[str, Any]], OptimizerConfig], Optimizer]"
    """Makes it for torch's parameter groups, each with its own `weight_decay`."""
    state: tuple[str, ...]
    """Names of what it keeps for each parameter, in tensors of the parameter's shape, zeros at first; beside
    them is a counter, `step`."""


def _adamw(groups: list[dict[str, Any]], settings: "OptimizerConfig") -> "Optimizer":
    made: Optimizer = Late("torch.optim:AdamW")(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps
    )
    return made


OPTIMIZERS: Mapping[str, OptimizerRecord] = MappingProxyType(
    {
        ADAMW: OptimizerRecord("Loshchilov & Hutter 2019", _adamw, ("exp_avg", "exp_avg_sq")),
    }
)
"""`optimizer.kind` -> the record."""


def published() -> str:
    """Which optimizer is whose, for the docs of `optimizer.kind`."""
    return " ".join(f"{name}: {record.source}." for name, record in OPTIMIZERS.items())
