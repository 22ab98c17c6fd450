"""Slurm's own commands, as used by this project."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools import children
from data_tools.errors import UserError

ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
         "PREEMPTED", "TIMEOUT")  # fmt: skip
"""States of jobs that do not come back."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that Slurm still has in its records."""

    id: str
    state: str
    reason: str
    """Why it is waiting, or "None"."""
    nodes: str
    restarts: int

    @property
    def is_active(self) -> bool:
        """Whether it is running, waiting, or will come back."""
        return self.state not in ENDED


def is_here() -> bool:
    """Whether Slurm's commands are installed on this machine."""
    return shutil.which("scontrol") is not None


def call(command: Sequence[str]) -> str:
    """Run a Slurm command.

    Returns:
        Its output without the trailing newline.

    Raises:
        UserError: it is not installed, or failed.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]}: there is no Slurm on this machine; `pretrain submit --dry-run` prints the "
            "script, and `python -m slurm.sandbox up` starts a small cluster here"
        )
    done = children.run(command, capture_output=True, text=True, errors="surrogateescape")
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout.rstrip("\n")


def sbatch(script: Path, *options: str) -> str:
    """Submit a script; returns the job's id."""
    # SBATCH_* variables would override the script's lines, and a submission from within a job must not
    # inherit them.
    hidden = [name for name in os.environ if name.startswith("SBATCH_")]
    unset = [word for name in hidden for word in ("-u", name)]
    answer = call(["env", *unset, "sbatch", "--parsable", *options, str(script)])
    return answer.splitlines()[-1].partition(";")[0]


def scancel(*arguments: str) -> None:
    """Cancel or signal a job.

    Raises UserError: Slurm says why it could not. (For array tasks, scancel 22.05 fails without a message,
    although it has done its work.)
    """
    done = children.run(["scancel", *arguments], capture_output=True, text=True, errors="surrogateescape")
    if done.returncode != 0 and done.stderr.strip():
        raise UserError(f"scancel ended with {done.returncode}: {done.stderr.strip()}")


def find_job(job: str) -> QueuedJob | None:
    """A job; of an array, a task that is running, else one that is waiting; None if Slurm has forgotten
    it."""
    try:
        text = call(["scontrol", "show", "job", "--oneliner", job])
    except UserError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    found = [_parse(line) for line in text.splitlines() if line.startswith("JobId=")]
    found.sort(key=lambda each: (not each.is_active, each.state == "PENDING"))
    return next(iter(found), None)


def _parse(line: str) -> QueuedJob:
    fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
    task = fields.get("ArrayTaskId", "")
    return QueuedJob(
        # The last task of an array has the array's id, which would mean all tasks.
        f"{fields['ArrayJobId']}_{task}" if task.isdigit() else fields["JobId"],
        fields["JobState"],
        fields.get("Reason", "None"),
        fields.get("NodeList", ""),
        int(fields.get("Restarts", "0")),
    )
