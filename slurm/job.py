"""What a job's script calls in Python: `python -m slurm.job begin|judge|end SUBMISSION ...`.

begin HOSTS: records the attempt; exits with 0 to continue, 100 if the run is already done, else to stop.
judge CODE HOSTS: after the preflight; 0 all is well, 75 a bad node was found and is excluded from now on. end
CODE PHASE LOST: decides what follows, given the nodes that no longer answer; 0 done, 75 requeue, anything
else stop.

Imports no torch: on a busy node that would take longer than all the rest.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_tools import children
from data_tools.errors import UserError, machine_error
from data_tools.names import storable
from pretrain.run.folder import RunFolder, read_yaml
from pretrain.run.status import State, Status, actual_status, read_status, write_status
from pretrain.tracking.evaluations import is_tracked, upload
from pretrain.tracking.owed import owed
from pretrain.tracking.record import read_record
from slurm.findings import judge_nodes
from slurm.submission import Attempt, Phase, Submission, exclude_nodes, saved_step
from slurm.verdict import AGAIN, JobVerdict, after, before

DONE = 100
CANCELLED = 130
AGREED = (0, 2, 3, 4, AGAIN)
"""Exit codes with which all ranks end together."""
OUT = {"DOWN", "DRAIN", "FAIL"}
"""States, or flags of states, of nodes that Slurm does not use."""


def begin(submission: Submission, hosts: Sequence[str], environment: Mapping[str, str]) -> int:
    """Record that an attempt begins, and decide whether it may."""
    status = actual_status(RunFolder(submission.run))
    if status is not None and status.state == "finished":
        _say("the run is finished; there is nothing to do")
        return DONE
    attempts = submission.attempts()
    if attempts:
        _exclude_lost(submission, attempts[-1], hosts)
    attempt = Attempt(
        job=environment.get("SLURM_JOB_ID", "0"),
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        nodes=tuple(hosts),
        step=saved_step(submission.run),
        began=time.time(),
    )
    submission.note(attempt)
    verdict = before([*attempts, attempt], _max_restarts(submission))
    if submission.is_cancelled:
        verdict = JobVerdict(CANCELLED, "cancelled")
    if verdict.code == 0:
        _say(f"attempt {len(attempts) + 1}: {verdict.reason}")
        return 0
    return _stop(submission, attempt, "start", verdict)


def judge(submission: Submission, code: int, hosts: Sequence[str]) -> int:
    """Evaluate the preflight, and exclude bad nodes from now on.

    Returns:
        0: all is well. 75: some nodes are bad. 4: a problem that other nodes would not fix.
    """
    attempt = submission.attempts()[-1]
    found = judge_nodes(submission.preflight / f"{attempt.job}.{attempt.restart}", hosts)
    for line in found.lines:
        _say(line)
    if not found.bad and not found.undecided and code == 0:
        return 0
    if found.bad and len(found.bad) < len(hosts):
        exclude_nodes(submission.run, dict(found.bad))
        return AGAIN
    return code if code not in (0, AGAIN) else 4


def end(submission: Submission, code: int, phase: Phase, lost: Sequence[str] = ()) -> int:
    """Record how the attempt ended, and decide what follows.

    Args:
        submission: whose attempt it was.
        code: exit code of the phase.
        phase: what it was doing.
        lost: its nodes that no longer answer. All of them, if Slurm itself ends the job.
    """
    attempts = submission.attempts()
    attempt = replace(attempts[-1], phase=phase, code=code)
    if 0 < len(lost) < len(attempt.nodes):
        where = f"job {attempt.job}, restart {attempt.restart}"
        exclude_nodes(submission.run, dict.fromkeys(lost, f"answered no more in {where}"))
        told = f"lost {', '.join(lost)}; ended with {code}"
        return _follow(submission, [*attempts[:-1], attempt], AGAIN, phase, told)
    said = None
    if phase == "train":
        status = _status_of(submission, attempt)
        log = _log(submission, attempt)
        ended = status is not None and status.state in ("failed", "stopped")
        said = status.reason if status is not None and ended else told_error(log)
        failure = None if code in AGREED else first_failure(log)
        if status is not None and status.state == "finished":
            code = 0  # whatever happened to a rank at exit
        elif failure is not None and failure.code in AGREED:
            code = failure.code  # all ranks end with it; srun may return that of a rank it had to kill
        elif failure is not None:
            said = "; ".join(part for part in (str(failure), said) if part)
    if phase == "preflight" and code == AGAIN:
        said = "the preflight found a bad node (see slurm/exclude in the run folder)"
    return _follow(submission, [*attempts[:-1], attempt], code, phase, said)


def _follow(
    submission: Submission, attempts: Sequence[Attempt], code: int, phase: Phase, said: str | None
) -> int:
    """Decide, record and print what follows the last attempt."""
    verdict = after(attempts, _max_restarts(submission), phase, code, said)
    if verdict.code == AGAIN and submission.is_cancelled:
        verdict = JobVerdict(CANCELLED, f"cancelled: {verdict.reason}")
    if verdict.code not in (0, AGAIN):
        return _stop(submission, attempts[-1], phase, verdict)
    if verdict.code == 0:
        _send(RunFolder(submission.run))
    word = "finished" if verdict.code == 0 else "again"
    _note(submission, replace(attempts[-1], ended=time.time(), verdict=f"{word}: {verdict.reason}"))
    _say(f"{word}: {verdict.reason}")
    return verdict.code


def _stop(submission: Submission, attempt: Attempt, phase: Phase, verdict: JobVerdict) -> int:
    """Stop for good: recorded in the attempts, the run's status and MLflow, and as the last line of the
    log."""
    ended = replace(attempt, phase=phase, ended=time.time(), code=verdict.code)
    _note(submission, replace(ended, verdict=f"stopped: {verdict.reason}"))
    folder = RunFolder(submission.run)
    try:
        if verdict.code == CANCELLED:
            mark_cancelled(folder, verdict.reason)
        elif (status := actual_status(folder)) is not None:
            if status.state != "failed":
                write_status(folder, _ended(status, "failed", verdict))
            _send(folder)
    except (OSError, UserError) as error:
        _say(f"the run's status cannot be written: {error}")
    _say(f"stopped: {verdict.reason}")
    return verdict.code


def _note(submission: Submission, attempt: Attempt) -> None:
    """Record how an attempt ended; a full disk does not change what follows."""
    try:
        submission.note(attempt)
    except OSError as error:
        _say(f"how this attempt ended is not noted: {machine_error(error) or error}")


def mark_cancelled(folder: RunFolder, reason: str) -> None:
    """Record in a run's status and in MLflow that no job will resume it, unless it had already ended by
    itself.

    Raises:
        UserError, OSError: the status is damaged, or cannot be written.
    """
    status = actual_status(folder)
    if status is not None and status.state in ("stopped", "crashed"):
        write_status(folder, _ended(status, "stopped", JobVerdict(CANCELLED, reason)))
        _send(folder)


def _ended(status: Status, state: State, verdict: JobVerdict) -> Status:
    return replace(status, state=state, time=time.time(), reason=verdict.reason, exit_code=verdict.code)


def _send(folder: RunFolder) -> None:
    """Send what MLflow does not have, if tracking is enabled: srun may have killed the uploader with the
    ranks."""
    if not is_tracked(folder) or not _owed(folder):
        return
    if problem := upload(folder):
        _say(f"the uploader: {problem}")
    if rest := ", ".join(_owed(folder).values()):
        _say(f"MLflow does not have yet: {rest}; `pretrain sync {folder.quoted}` sends it")


def _owed(folder: RunFolder) -> dict[str, str]:
    """What the run's own server does not have yet."""
    return owed(folder, read_record(folder).own, read_status(folder))


def _status_of(submission: Submission, attempt: Attempt) -> Status | None:
    """The run's own status, if this attempt wrote it."""
    try:
        status = actual_status(RunFolder(submission.run))
    except UserError as error:
        _say(str(error))
        return None
    return status if status is not None and status.time >= attempt.began else None


@dataclass(frozen=True)
class Failure:
    """How the first failed rank ended."""

    host: str
    ranks: str
    """One rank, or several of a node that ended at the same time: 3, or 0-3."""
    how: str
    """In srun's words, such as Killed."""

    @property
    def code(self) -> int | None:
        """The exit code; None if a signal ended it."""
        match = re.fullmatch(r"Exited with exit code (\d+)", self.how)
        return int(match[1]) if match else None

    def __str__(self) -> str:
        return f"rank {self.ranks} on {self.host}: {self.how}"


def _log(submission: Submission, attempt: Attempt) -> str:
    """The output of an attempt."""
    try:
        log = (submission.path / f"job-{attempt.job}.log").read_text(errors="replace")
    except OSError:
        return ""
    return log.rpartition(f"job {attempt.job}, restart {attempt.restart}:")[2]


def told_error(log: str) -> str | None:
    """The first error message of a command, for a run that had not yet written a status."""
    match = re.search(r"^(?: *\d+: )?pretrain: error: (.*)$", log, re.MULTILINE)
    return match[1] if match else None


def first_failure(log: str) -> Failure | None:
    """The first failed rank, according to srun in a job's log."""
    match = re.search(r"^srun: error: (\S+): tasks? ([\d,-]+): (.*)$", log, re.MULTILINE)
    return Failure(match[1], match[2], match[3]) if match else None


def _exclude_lost(submission: Submission, attempt: Attempt, hosts: Sequence[str]) -> None:
    """Exclude the nodes that the last attempt has lost: those that Slurm reports as down by now."""
    gone = [node for node in attempt.nodes if node not in hosts]
    if not gone:
        return
    # It shows every flag of a state: a node can be down and still completing the attempt.
    command = ["scontrol", "show", "node", "--oneliner", ",".join(gone)]
    unknown = f"whether {', '.join(gone)} is down is not known"
    try:
        answer = children.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:  # a container may have no scontrol
        _say(f"{unknown}: {error}")
        return
    if answer.returncode != 0:
        _say(f"{unknown}: scontrol: {answer.stderr.strip()}")
    lost = dict.fromkeys(down_nodes(answer.stdout), f"down in job {attempt.job}, restart {attempt.restart}")
    exclude_nodes(submission.run, lost)
    for node in lost:
        _say(f"{node} was lost by the attempt before; it is left out from now on")


def down_nodes(shown: str) -> list[str]:
    """Nodes that `scontrol show node --oneliner` reports as down, draining, drained or failing."""
    states = re.findall(r"^NodeName=(\S+) .*? State=(\S+)", shown, re.MULTILINE)
    return [name for name, state in states if OUT & set(re.split(r"[^A-Z_]+", state))]


def _max_restarts(submission: Submission) -> int:
    return int(read_yaml(submission.config)["slurm"]["max_restarts"])


def _say(text: str) -> None:
    print(f"pretrain job: {storable(text)}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run one of the three commands; returns the exit code."""
    try:
        return _answer(*arguments)
    except (UserError, OSError) as error:
        message = machine_error(error) if isinstance(error, OSError) else str(error)
        if message is None:
            raise
        _say(message)
        return UserError.exit_code


def _answer(command: str, folder: str, *rest: str) -> int:
    submission = Submission(Path(folder))
    if command == "begin":
        return begin(submission, rest, os.environ)
    if command == "judge":
        return judge(submission, int(rest[0]), rest[1:])
    if command == "end":
        phase: Phase = "train" if rest[1] == "train" else "preflight" if rest[1] == "preflight" else "start"
        return end(submission, int(rest[0]), phase, rest[2:])
    raise UserError(f"slurm.job {command}: begin, judge or end")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
