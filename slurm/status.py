"""`pretrain status RUN`: the state of a run, from its own files, with Slurm's information if there is a
job."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.run.folder import RunFolder, read_yaml
from pretrain.run.progress import duration, shown
from pretrain.run.status import Status, actual_status, read_status
from pretrain.tracking.reach import require_last_line
from slurm.client import QueuedJob, is_here
from slurm.measured import last_entry, step_seconds
from slurm.submission import Submission, bad_nodes, saved_step, submissions
from slurm.watch import job_of, tail

LABEL = 12
MOST_ATTEMPTS = 10
"""Maximum number of attempts shown, of all submissions."""
LAST_LINES = 20
"""Lines at the end of a log that are searched for one that is not empty."""


def status_command(run: str) -> None:
    """Print the state of a run.

    Raises:
        UserError: there is no run and no submission.
        IntegrityError: once everything else is printed, if the journal has lost its last lines.
    """
    folder = RunFolder(run)
    written = read_status(folder)  # read before the journal
    sent = submissions(folder.path)
    if not sent:
        folder.require_run()
    status = actual_status(folder) if folder.is_run else None
    job = job_of(sent[-1]) if sent else None
    rows = [("run", str(folder.path)), *_state(status, job, sent), *_progress(folder, status, job)]
    rows += _attempts(sent, job)
    rows += [("left out", f"{node}: {reason}") for node, reason in bad_nodes(folder.path).items()]
    for name, value in rows:
        print(f"{name:{LABEL}}{value}")
    if folder.is_run:
        require_last_line(folder, written)


def _state(status: Status | None, job: QueuedJob | None, sent: list[Submission]) -> Iterator[tuple[str, str]]:
    if status is not None:
        yield "state", status.state + (f": {status.reason}" if status.reason else "")
    if job is not None:
        yield "job", _job_line(job)
    elif status is None:
        yield "state", _unknown(sent[-1]) if sent else "unknown: no job has written status.json"
    if sent and sent[-1].job is not None and not (job and (job.is_active or job.state == "COMPLETED")):
        yield from _last_word(sent[-1])


def _unknown(submission: Submission) -> str:
    """The text for a run without a status, whose job cannot be queried."""
    if submission.job is None:
        return f"not sent: sbatch has not taken {submission.script}"
    if not is_here():
        return f"submitted as job {submission.job}; there is no Slurm here to ask about it"
    return "submitted; Slurm has forgotten the job, and it has left no word"


def _job_line(job: QueuedJob) -> str:
    where = f" on {job.nodes}" if job.nodes not in ("", "(null)") else ""
    why = f" ({job.reason})" if job.reason != "None" and job.state != "RUNNING" else ""
    return f"{job.id} is {job.state.lower()}{where}{why}"


def _last_word(submission: Submission) -> Iterator[tuple[str, str]]:
    """The log's last line, if a job has ended and its script could not report why."""
    attempts = submission.attempts()
    if attempts and (attempts[-1].verdict or "").startswith(("stopped:", "finished:")):
        return
    log = next(reversed(submission.logs()), None)
    lines = [] if log is None else [line for line in tail(log, LAST_LINES) if line.strip()]
    if lines:
        yield "last line", f"{lines[-1].strip()} ({log})"
    elif is_here():
        yield "last line", f"none: the job has printed nothing into {submission.path}"


def _progress(folder: RunFolder, status: Status | None, job: QueuedJob | None) -> Iterator[tuple[str, str]]:
    """Step, loss, rate, remaining time, and the next save; with waiting times if the run is active."""
    entry = last_entry(folder)
    if entry is None:
        return
    config = read_yaml(folder.resolved)
    step, steps = int(entry["step"]), int(config["run"]["steps"])
    yield "step", f"{step:,}/{steps:,}, {duration(time.time() - entry['time'])} ago"
    for label, value in shown(entry):
        yield ("rate", f"{value} {label}") if label.endswith("/s") else (label, value)
    is_running = status is not None and status.state == "running"
    has_stepped = status is not None and is_running and entry["time"] >= status.started
    saved, seconds = saved_step(folder.path), step_seconds(folder)
    done = step if has_stepped else saved  # the step from which it resumes
    if seconds is not None and done < steps:
        yield "remaining", duration((steps - done) * seconds) + ("" if has_stepped else " of training")
    yield "saved", f"step {saved:,}"
    if done < steps and (is_running or (job is not None and job.is_active)):
        yield "next save", _next_save(config, done, steps, seconds if has_stepped else None)


def _next_save(config: Mapping[str, Any], step: int, steps: int, seconds: float | None) -> str:
    every = config["checkpoint"]["every"]
    due = min(steps, (step // every + 1) * every) if every else steps
    return f"step {due:,}" + (f", in {duration((due - step) * seconds)}" if seconds is not None else "")


def _attempts(sent: list[Submission], job: QueuedJob | None) -> Iterator[tuple[str, str]]:
    """Restarts of the newest submission, and what ended each attempt of all submissions."""
    if sent and (newest := sent[-1].attempts()):
        yield "restarts", str(len(newest) - 1)
    attempts = [(submission, attempt) for submission in sent for attempt in submission.attempts()]
    first = max(0, len(attempts) - MOST_ATTEMPTS)
    for number, (submission, attempt) in enumerate(attempts[first:], first + 1):
        goes_on = submission is sent[-1] and number == len(attempts) and (job is None or job.is_active)
        ended = "the newest" if goes_on else "went without a word: Slurm took the job, or lost a node"
        where = f"{submission.path.name}, " if len(sent) > 1 else ""
        nodes = ", ".join(attempt.nodes)
        said = attempt.verdict or ended
        yield f"attempt {number}", f"{where}from step {attempt.step:,} on {nodes}: {said}"
