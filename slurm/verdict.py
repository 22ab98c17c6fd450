"""Whether a job continues, is requeued, or stops, from its attempts so far.

Only what may end differently next time is tried again: a stop on a signal with a checkpoint (75), and a job
that Slurm requeued itself, for example after the failure of a node. Anything else would fail in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data_tools.counts import counted
from slurm.submission import Attempt, Phase

AGAIN = 75
STOPPED_BY_VERDICT = 4
MEANINGS = {
    137: ": a rank was killed (SIGKILL), most often for want of memory",
    139: ": a rank crashed (SIGSEGV)",
}
IN_VAIN = 2
"""Restarts in a row without a step of progress before a job stops."""


@dataclass(frozen=True)
class JobVerdict:
    """What follows, as the exit code of the job: 0 done, 75 again, anything else stop."""

    code: int
    reason: str


def before(attempts: Sequence[Attempt], max_restarts: int) -> JobVerdict:
    """Whether the last of the attempts, which has just begun, may continue: code 0 if so."""
    if len(attempts) - 1 > max_restarts:
        return _no_more(max_restarts)
    # An attempt that only found a bad node has not tried to train.
    tried = [attempt for attempt in attempts[:-1] if attempt.phase != "preflight"] + [attempts[-1]]
    if len(tried) > IN_VAIN and len({attempt.step for attempt in tried[-IN_VAIN - 1 :]}) == 1:
        last = tried[-2]
        how = f"ended with {last.code}" if last.code is not None else "went without a word"
        return JobVerdict(
            STOPPED_BY_VERDICT,
            f"{IN_VAIN} restarts in a row made no progress after step {attempts[-1].step}; the last one "
            f"{how} on {', '.join(last.nodes)}",
        )
    return JobVerdict(0, f"starting after step {attempts[-1].step}")


def after(
    attempts: Sequence[Attempt], max_restarts: int, phase: Phase, code: int, said: str | None
) -> JobVerdict:
    """What follows the last attempt.

    Args:
        max_restarts: `slurm.max_restarts`.
        phase: what it was doing.
        code: exit code of that.
        said: the run's own report of why it ended, if it left one.
    """
    if code == 0:
        return JobVerdict(0, "all steps are done")
    if code != AGAIN:
        return JobVerdict(
            code, said or f"{phase} ended with exit code {code}{MEANINGS.get(code, '')}; see the log above"
        )
    if len(attempts) > max_restarts:
        return _no_more(max_restarts)
    return JobVerdict(AGAIN, said or f"stopped in {phase}; nothing is lost")


def _no_more(max_restarts: int) -> JobVerdict:
    text = f"{counted(max_restarts, 'restart')} did not suffice (slurm.max_restarts)"
    return JobVerdict(STOPPED_BY_VERDICT, text)
