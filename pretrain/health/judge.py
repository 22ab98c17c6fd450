"""What to do about the loss and the gradient norm of a step; every rank judges the same numbers."""

import logging
import math
from dataclasses import dataclass

from pretrain.config import derived
from pretrain.config.sections import DescentConfig
from pretrain.errors import HealthError
from pretrain.health.spikes import Memory, spike_limit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a step."""

    finite: bool
    """Whether loss and gradient are numbers."""
    spike: bool
    """Whether the loss was far above the ones before."""
    update: bool
    """Whether to take the step."""


def judge(config: DescentConfig, memory: Memory, loss: float, norm: float) -> Verdict:
    """The verdict on a step.

    Args:
        memory: of the steps before.
        loss: of the global batch.
        norm: of the gradient; not finite on every rank if it is not on one.
    """
    finite = math.isfinite(loss) and math.isfinite(norm)
    window, losses = derived.spike_window(config), memory.losses
    known = bool(losses) and len(losses) >= window
    spike = finite and known and loss > spike_limit(losses, derived.spike_threshold(config))
    return Verdict(finite, spike, finite and not (spike and config.health.on_spike == "rollback"))


def refuse_nonfinite(config: DescentConfig, memory: Memory, what: str, where: str = "") -> None:
    """Stop, or say that the update is skipped, as `health.on_nonfinite` says.

    Args:
        memory: with this step in it.
        what, where: step, samples and numbers, and where they first went wrong.

    Raises:
        HealthError: the run is to stop, or has skipped too many updates in a row.
    """
    in_a_row = memory.skips_in_a_row
    if config.health.on_nonfinite == "stop":
        raise HealthError(f"{what}; the weights were not touched{where}")
    if in_a_row > derived.max_skips(config):
        raise HealthError(f"{what}; {in_a_row} steps in a row, the weights were not touched{where}")
    log.warning("%s; this step's update is skipped%s", what, where)


def require_rollbacks_left(config: DescentConfig, memory: Memory, spike: int) -> None:
    """Raise HealthError if step `spike`, from 0, is a spike after `health.max_rollbacks` rollbacks."""
    if memory.rollbacks >= derived.max_rollbacks(config):
        raise HealthError(
            f"step {spike + 1}: the loss is a spike again after {memory.rollbacks} rollbacks "
            "(health.max_rollbacks); the weights were not touched"
        )
