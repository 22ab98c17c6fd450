"""What a run's time is spent on, from the phases that a rank marks (`health.phase_timer`)."""

from collections.abc import Mapping
from enum import Enum

from pretrain.health.phase_timer import Phase


class Cause(Enum):
    """What a second is spent on; the names of metrics begin with these."""

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
"""Everything else, such as validation and the journal, is `other`."""


def cause_of(phase: Phase) -> Cause:
    """The cause of a phase's time, as far as the marks tell."""
    return CAUSES.get(phase, Cause.OTHER)


def by_cause(seconds: Mapping[Phase, float]) -> dict[Cause, float]:
    """Seconds of each cause, all causes in their order."""
    found = dict.fromkeys(Cause, 0.0)
    for phase, each in seconds.items():
        found[cause_of(phase)] += each
    return found


def shares(seconds: Mapping[Cause, float], prefix: str = "") -> dict[str, float]:
    """Metrics: each cause's share of the total, to four digits; none if no time has passed."""
    whole = sum(seconds.values())
    if whole <= 0:
        return {}
    return {f"{prefix}{cause.value}_share": round(each / whole, 4) for cause, each in seconds.items()}
