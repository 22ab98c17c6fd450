"""The verdict on a step, from its loss and gradient norm; every rank judges the same numbers."""

import logging
import math
from dataclasses import dataclass

from data_tools.counts import counted
from pretrain.checkpoint import Checkpoint
from pretrain.config import derived
from pretrain.config.sections import DescentConfig
from pretrain.errors import HealthError
from pretrain.health.spikes import SpikeHistory, spike_limit

MAX_RETURNS = 3
"""How often in a row a run may go back to one checkpoint because updates were skipped after it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepVerdict:
    """What to do with a step."""

    finite: bool
    """Whether loss and gradient are finite."""
    spike: bool
    """Whether the loss was far above the ones before."""
    update: bool
    """Whether to take the step."""


def judge(config: DescentConfig, memory: SpikeHistory, loss: float, norm: float) -> StepVerdict:
    """The verdict on a step.

    Args:
        memory: history of the steps before.
        loss: of the global batch.
        norm: of the gradient; not finite on every rank if it is not on one.
    """
    finite = math.isfinite(loss) and math.isfinite(norm)
    window, losses = derived.spike_window(config), memory.losses
    known = bool(losses) and len(losses) >= window
    spike = finite and known and loss > spike_limit(losses, derived.spike_threshold(config))
    return StepVerdict(finite, spike, finite and not (spike and config.health.on_spike == "rollback"))


def refuse_nonfinite(config: DescentConfig, memory: SpikeHistory, what: str, where: str = "") -> None:
    """Stop, or report that the update is skipped, as `health.on_nonfinite` says.

    Args:
        memory: history including this step.
        what, where: step, samples and numbers, and where they first became non-finite.

    Raises:
        HealthError: the run has to stop, or has skipped too many updates in a row.
    """
    in_a_row = memory.skips_in_a_row
    if config.health.on_nonfinite == "stop":
        raise HealthError(f"{what}; the weights were not touched{where}")
    if in_a_row > derived.max_skips(config):
        raise HealthError(
            f"{what}; {counted(in_a_row, 'step')} in a row, the weights were not touched{where}"
        )
    log.warning("%s; this step's update is skipped%s", what, where)


def require_rollbacks_left(config: DescentConfig, memory: SpikeHistory, spike: int) -> None:
    """Raise HealthError if step `spike`, from 0, is a spike after `health.max_rollbacks` rollbacks."""
    if memory.rollbacks >= derived.max_rollbacks(config):
        raise HealthError(
            f"step {spike + 1}: the loss is a spike again after {counted(memory.rollbacks, 'rollback')} "
            "(health.max_rollbacks); the weights were not touched"
        )


def go_back(memory: SpikeHistory, step: int, later: Checkpoint) -> SpikeHistory:
    """The history of a run that resumes from `step` steps because a later checkpoint was saved while updates
    were skipped.

    Args:
        memory: of the checkpoint of that step.
        step: steps done there.
        later: the newest complete checkpoint.

    Raises:
        HealthError: the run has gone back there `MAX_RETURNS` times already.
    """
    before = SpikeHistory.from_json(later.state["health"])
    since, back = before.suspect_since(later.step), memory.returned(step, before)
    if back.returns > MAX_RETURNS:
        raise HealthError(
            f"updates from step {since} on were skipped again after the run had gone back to step {step} "
            f"{MAX_RETURNS} times; look at the samples and weights that its log names. To try once more, "
            f"delete the checkpoints after step {step}; to go back further, that of step {step} too"
        )
    log.warning(
        "updates from step %d on were skipped: the run goes back to step %d (%d of %d times)",
        since,
        step,
        back.returns,
        MAX_RETURNS,
    )
    return back
