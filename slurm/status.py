"""`pretrain status RUN`: how a run is, from its own files, with what Slurm says where there is a job."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.folder import RunFolder, read_yaml
from pretrain.progress import SHOWN, duration
from pretrain.status import actual_status, read_status
from pretrain.tracking.reach import require_last_line
from slurm.client import QueuedJob
from slurm.measured import RATES, last_entry, step_seconds
from slurm.submission import Submission, bad_nodes, saved_step, submissions
from slurm.watch import job_of

LABEL = 12


def status_command(run: str) -> None:
    """Print how a run is.

    Raises:
        UserError: there is no run and no submission.
        IntegrityError: once all else is printed, if the journal has lost its last lines.
    """
    folder = RunFolder(run)
    status = read_status(folder)  # before the journal
    sent = submissions(folder.path)
    if not sent:
        folder.require_run()
    rows = [("run", str(folder.path)), *_state(folder, sent), *_progress(folder), *_attempts(sent)]
    rows += [("left out", f"{node}: {reason}") for node, reason in bad_nodes(folder.path).items()]
    for name, value in rows:
        print(f"{name:{LABEL}}{value}")
    if folder.is_run:
        require_last_line(folder, status)


def _state(folder: RunFolder, sent: list[Submission]) -> Iterator[tuple[str, str]]:
    status = actual_status(folder) if folder.is_run else None
    if status is not None:
        yield "state", status.state + (f": {status.reason}" if status.reason else "")
    job = job_of(sent[-1]) if sent else None
    if job is not None:
        yield "job", _job_line(job)
    elif status is None:
        yield "state", "submitted; Slurm has forgotten the job, and it has left no word"


def _job_line(job: QueuedJob) -> str:
    where = f" on {job.nodes}" if job.nodes not in ("", "(null)") else ""
    why = f" ({job.reason})" if job.state == "PENDING" and job.reason != "None" else ""
    return f"{job.id} is {job.state.lower()}{where}{why}"


def _progress(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """Step, loss, rate, what is left, and the next save."""
    entry = last_entry(folder)
    if entry is None:
        return
    config = read_yaml(folder.resolved)
    step, steps = int(entry["step"]), int(config["run"]["steps"])
    yield "step", f"{step:,}/{steps:,}, {duration(time.time() - entry['time'])} ago"
    for name, label, form in SHOWN:
        if name in entry:
            yield (
                (label, form.format(entry[name]))
                if name not in RATES
                else ("rate", f"{entry[name]:,.0f} {label}")
            )
    seconds = step_seconds(folder)
    if seconds is not None and step < steps:
        yield "remaining", duration((steps - step) * seconds)
    yield "saved", f"step {saved_step(folder.path):,}"
    if step < steps:
        yield "next save", _next_save(config, step, steps, seconds)


def _next_save(config: Mapping[str, Any], step: int, steps: int, seconds: float | None) -> str:
    every = config["checkpoint"]["every"]
    due = min(steps, (step // every + 1) * every) if every else steps
    return f"step {due:,}" + (f", in {duration((due - step) * seconds)}" if seconds is not None else "")


def _attempts(sent: list[Submission]) -> Iterator[tuple[str, str]]:
    """Restarts of the newest submission, and what ended each attempt."""
    attempts = sent[-1].attempts() if sent else []
    if attempts:
        yield "restarts", str(len(attempts) - 1)
    for number, attempt in enumerate(attempts[-10:], max(1, len(attempts) - 9)):
        ended = (
            "the newest"
            if number == len(attempts)
            else "went without a word: Slurm took the job, or lost a node"
        )
        where = ", ".join(attempt.nodes)
        yield f"attempt {number}", f"from step {attempt.step:,} on {where}: {attempt.verdict or ended}"
