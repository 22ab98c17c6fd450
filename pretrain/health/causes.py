"""What a run's time is spent on, by the phases that a rank marks (`health.pulse`)."""

from collections.abc import Mapping
from enum import Enum

from pretrain.health.phase_timer import Phase


class Cause(Enum):
    """What a second went to; the names of metrics begin with these."""

    COMPUTE = "compute"
    COMMUNICATION = "communication"
    DATA_WAIT = "data_wait"
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint_stall"
    OTHER = "other"


CAUSES = {
    Phase.DATA: Cause.DATA_WAIT,
    Phase.AGREEMENT: Cause.COMMUNICATION,
    Phase.COMPUTE: Cause.COMPUTE,
    Phase.REDUCTION: Cause.COMMUNICATION,
    Phase.UPDATE: Cause.OPTIMIZER,
    Phase.COMPARISON: Cause.CHECKPOINT,
    Phase.SAVING: Cause.CHECKPOINT,
}
"""Validation, the journal and what else there is are `other`."""


def cause_of(phase: Phase) -> Cause:
    """What a phase's time goes to, as far as the marks tell."""
    return CAUSES.get(phase, Cause.OTHER)


def by_cause(seconds: Mapping[Phase, float]) -> dict[Cause, float]:
    """Seconds of each cause, all of them in their order."""
    found = dict.fromkeys(Cause, 0.0)
    for phase, each in seconds.items():
        found[cause_of(phase)] += each
    return found


def shares(seconds: Mapping[Cause, float], prefix: str = "") -> dict[str, float]:
    """Metrics: each cause's share of the whole, to four digits; none where no time has passed."""
    whole = sum(seconds.values())
    if whole <= 0:
        return {}
    return {f"{prefix}{cause.value}_share": round(each / whole, 4) for cause, each in seconds.items()}
