"""`pretrain logs RUN` and `pretrain cancel RUN`: show what a run prints, and end it."""

from pathlib import Path

from data_tools.bounded import last_lines
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from slurm.client import QueuedJob, find_job, scancel
from slurm.job import mark_cancelled
from slurm.submission import Submission, submissions

TAIL_BYTES = 1 << 20


def job_of(submission: Submission) -> QueuedJob | None:
    """The job of a submission; None if it was not submitted, or Slurm is not here or has forgotten it."""
    if submission.job is None:
        return None
    try:
        return find_job(submission.job)
    except UserError:
        return None


def logs_command(run: str, rank: int | None, lines: int) -> None:
    """Print the end of a run's log.

    Args:
        rank: the rank whose log is shown; None: the job's own log, with the output of all ranks.

    Raises:
        UserError: there is none.
    """
    folder = RunFolder(run)
    sent = submissions(folder.path)
    if not sent:
        folder.require_run()
    if rank is None and sent:
        found = sent[-1].logs()[-1:]
    else:
        found = [path for path in [folder.rank_log(rank or 0)] if path.is_file()]
    if not found:
        ranks = sorted(int(path.stem[5:]) for path in folder.logs.glob("rank-*.log"))
        there = f"there are those of ranks {ranks[0]} to {ranks[-1]}" if ranks else "there are none yet"
        raise UserError(f"{folder.path}: no log of {'the job' if rank is None else f'rank {rank}'}; {there}")
    print(f"==> {found[0]}")
    print("\n".join(tail(found[0], lines)))


def tail(path: Path, lines: int) -> list[str]:
    return [line.decode(errors="replace") for line in last_lines(path, TAIL_BYTES)[-lines:]]


def cancel_command(run: str, *, now: bool) -> None:
    """End the jobs of a run: those that train save a checkpoint first, and none is requeued.

    Args:
        now: do not wait for a checkpoint; ranks have Slurm's KillWait to save one.

    Raises:
        UserError: there is no job to end.
    """
    folder = RunFolder(run)
    active = [
        (submission, job)
        for submission in submissions(folder.path)
        if submission.job and (job := find_job(submission.job)) is not None and job.is_active
    ]
    if not active:
        raise UserError(f"{folder.path}: no job of this run waits or runs")
    for submission, job in active:
        assert submission.job is not None
        submission.cancel()
        if now or job.state != "RUNNING":
            scancel(submission.job)
            print(f"job {job.id} is cancelled")
            if job.state != "RUNNING":
                mark_cancelled(folder, "cancelled while its job waited")
            continue
        scancel("--state=PENDING", submission.job)  # the remaining jobs of a chain
        scancel("--batch", "--signal=USR1", job.id)
        print(f"job {job.id} saves a checkpoint and ends; `pretrain logs {folder.quoted}` shows it")
