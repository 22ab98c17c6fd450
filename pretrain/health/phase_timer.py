"""What this rank is doing and since when: marked by loop and trainer, read by the watchdog's thread.

A mark costs about a microsecond and is one assignment, so a reader in another thread sees a consistent
moment.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from statistics import median
from typing import NamedTuple

LONG_SECONDS = 1800.0
"""Limit of phases that may take long once: start-up, the first steps, a validation that shows no progress."""
SAVING_SECONDS = 3600.0
"""Limit of a save: how long a `Saver` itself waits for other ranks."""
SHORTEST_SECONDS = 120.0
"""Smallest limit of a phase, if the config sets none."""
TIMES_USUAL = 20
"""Limit of a phase in usual steps, if the config sets none."""
_KNOWN_AFTER = 3
"""Steps after which a usual step is known."""


class Phase(Enum):
    """Parts of a run; within a step they follow one another in this order."""

    START = "start-up"
    DATA = "data wait"
    AGREEMENT = "all-reduce of signals"
    COMPUTE = "forward and backward"
    REDUCTION = "all-reduce of gradients"
    UPDATE = "optimizer"
    JOURNAL = "journal"
    VALIDATION = "validation"
    LOADING = "loading"
    COMPARISON = "replica check"
    SAVING = "saving"
    ENDED = "end"


ORDER = {phase: place for place, phase in enumerate(Phase)}
OWN = (Phase.DATA, Phase.COMPUTE)
"""Phases in which a rank works on its own, before the gradients of all ranks are reduced."""


class Moment(NamedTuple):
    """What a rank is doing, and since when."""

    step: int
    """Counted from 1; 0 before the first."""
    phase: Phase
    part: int
    """Parts of the phase that are done, where it has parts."""
    since: float
    """Monotonic seconds."""


_Marks = tuple[Moment, Moment | None, Callable[[], bool] | None]
"""The last mark, the one before, and whether the GPU has reached the last."""


class PhaseTimer:
    """The phase timer of one rank."""

    def __init__(self) -> None:
        self._marks: _Marks = Moment(0, Phase.START, 0, time.monotonic()), None, None
        self._own = 0.0
        self._step_began: float | None = None
        self._steps: deque[float] = deque(maxlen=50)
        self._spent: dict[Phase, float] = {}
        self._listener: Callable[[Phase], None] | None = None

    @property
    def now(self) -> Moment:
        """What this rank is doing, with its GPU if that is behind."""
        moment, before, reached = self._marks
        return before if before is not None and reached is not None and not reached() else moment

    def mark(
        self,
        phase: Phase,
        step: int | None = None,
        part: int = 0,
        reached: Callable[[], bool] | None = None,
    ) -> None:
        """Mark that a phase begins, or that a part of it is done.

        Args:
            phase: what begins.
            step: counted from 1; None: the same as before.
            part: parts done.
            reached: whether the GPU has got there; called by any thread. None: it does not matter.
        """
        moment, (before, *_) = time.monotonic(), self._marks
        self._spent[before.phase] = self._spent.get(before.phase, 0.0) + moment - before.since
        if before.phase in OWN:
            self._own += moment - before.since
        if step is not None and step != before.step:
            if self._step_began is not None:
                self._steps.append(moment - self._step_began)
            self._step_began = moment
        now = Moment(before.step if step is None else step, phase, part, moment)
        self._marks = now, before, reached
        if self._listener is not None:
            self._listener(phase)

    def listen(self, listener: Callable[[Phase], None] | None) -> None:
        """Call one listener at every mark, in the thread that makes it; None: nobody."""
        self._listener = listener

    def spent(self) -> dict[Phase, float]:
        """Seconds spent in each phase since the last call, up to the last mark."""
        spent, self._spent = self._spent, {}
        return spent

    def lap(self) -> float:
        """Seconds of this rank's own work since the last call, without waiting for other ranks."""
        own, self._own = self._own, 0.0
        return own

    @property
    def usual_step(self) -> float | None:
        """Median seconds of recent steps; None while there are too few."""
        return median(self._steps) if len(self._steps) >= _KNOWN_AFTER else None


def phase_limit(timeout: float | None, moment: Moment, usual_step: float | None) -> float:
    """Seconds that the current phase may last.

    Args:
        timeout: `health.hang_timeout`; None: as long as 20 usual steps, at least 120 s. 0: forever.
        moment: what the rank is doing.
        usual_step: see `PhaseTimer`.
    """
    if timeout == 0 or moment.phase is Phase.ENDED:
        return float("inf")
    base = timeout if timeout is not None else max(SHORTEST_SECONDS, TIMES_USUAL * (usual_step or 0))
    if moment.phase is Phase.SAVING:
        return max(base, SAVING_SECONDS)
    warming_up = usual_step is None and ORDER[moment.phase] >= ORDER[Phase.COMPUTE]
    silent_work = moment.phase is Phase.VALIDATION and moment.part == 0
    if moment.phase in (Phase.START, Phase.LOADING) or warming_up or silent_work:
        return max(base, LONG_SECONDS)
    return base


def patience(timeout: float | None) -> float:
    """Seconds without a sign of life after which a rank counts as lost."""
    return float("inf") if timeout == 0 else timeout or SHORTEST_SECONDS


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
