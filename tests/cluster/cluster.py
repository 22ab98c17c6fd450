"""Jobs on the sandbox: submitted as users do, followed by their files, and disturbed by Slurm's own means."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import children
from pretrain.errors import UserError
from pretrain.health.heartbeat import Heartbeat, read_heartbeat
from pretrain.run.folder import RunFolder
from slurm.client import QueuedJob, find_job
from slurm.sandbox.cluster import Sandbox
from slurm.sandbox.processes import Process, with_environment
from slurm.submission import Attempt, Submission, submissions
from slurm.submit import submit_command

PATIENCE = 400.0
"""Seconds for anything that should come; machines may be busy."""
LOOK_SECONDS = 0.2


def wait_until(due: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + patience
    while not (value := due()):
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(LOOK_SECONDS)
    return value


def kill_node(sandbox: Sandbox, name: str) -> None:
    """SIGKILL a node's slurmd: its jobs lose their node, as if a machine had lost its network."""
    process = sandbox.daemons()[name]
    process.send(signal.SIGKILL)
    while process.alive:
        time.sleep(0.02)


def on_node(sandbox: Sandbox, name: str, *command: str) -> None:
    """Run a command in a node's namespaces, for example a mount that only this node sees."""
    pid = str(sandbox.daemons()[name].pid)
    children.run(["nsenter", "--target", pid, "--mount", "--uts", *command], check=True)


@dataclass(frozen=True)
class Hold:
    """Where files hold the processes of `python` (`held.py`)."""

    folder: Path
    python: Path

    def job(self, name: str, pace: float = 0.1) -> tuple[str, ...]:
        """Overrides for a job that is held by files in `self.folder / name`."""
        (self.folder / name).mkdir()
        environment = [f"HOLD={self.folder / name}", f"PACE={pace}"]
        return f"slurm.python={self.python}", f"slurm.environment={json.dumps(environment)}"

    def put(self, name: str, what: str) -> Path:
        """Hold a job; the file to remove."""
        path = self.folder / name / what
        path.touch()
        return path


@dataclass
class JobUnderTest:
    """A submitted job and its run."""

    sandbox: Sandbox
    run: RunFolder
    submission: Submission

    @property
    def id(self) -> str:
        assert self.submission.job is not None
        return self.submission.job

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.submission.logs())

    @property
    def attempts(self) -> list[Attempt]:
        return self.submission.attempts()

    def state(self) -> QueuedJob:
        job = find_job(self.id)
        assert job is not None
        return job

    def step(self) -> int:
        """The last step in the journal."""
        try:
            lines = self.run.metrics.read_text().splitlines()
        except FileNotFoundError:
            return 0
        return int(json.loads(lines[-1])["step"]) if lines and lines[-1].endswith("}") else 0

    def until_step(self, step: int) -> None:
        wait_until(
            lambda: self.step() >= step or not self.state().is_active, f"step {step} of {self.run.path}"
        )
        assert self.step() >= step, self.log

    def until_trains(self) -> None:
        """Wait for some steps of the present attempt; the journal may hold later ones of one before it."""
        attempt = self.attempts[-1]

        def has_begun() -> bool:
            beat = self.beat(0)
            return beat is not None and beat.time > attempt.began and beat.step >= attempt.step + 5

        wait_until(lambda: has_begun() or not self.state().is_active, f"steps of {self.run.path}")
        assert has_begun(), self.log

    def until_attempt(self, number: int) -> None:
        wait_until(lambda: len(self.attempts) >= number, f"attempt {number} of {self.run.path}")

    def until_requeued(self) -> None:
        """Wait until Slurm has the job back, and spare it the two minutes that it lets such a job wait.

        Within the second in which slurmd took back its credential, the job could not start.
        """
        before = self.attempts[-1].restart if self.attempts else 0

        def is_back() -> str | None:
            job = self.state()
            again = job.state == "PENDING" or (job.state == "RUNNING" and job.restarts > before)
            return job.state if again else None

        if wait_until(is_back, f"the return of job {self.id} to the queue") == "PENDING":
            time.sleep(1.5)
            try:
                self.sandbox.run("scontrol", "update", f"JobId={self.id}", "StartTime=now")
            except UserError:
                assert self.state().state != "PENDING"  # it was started meanwhile

    def until_ended(self) -> QueuedJob:
        job: QueuedJob = wait_until(
            lambda: None if (job := self.state()).is_active else job, f"the end of {self.id}"
        )
        wait_until(lambda: not self.processes(), "the end of all processes of the job", 120)
        assert not half_written(self.run)
        return job

    def processes(self) -> list[Process]:
        """All that is left of the job on its nodes."""
        return [each for each, name in self.sandbox.job_processes() if belongs_to(each, name, self.id)]

    def beat(self, rank: int) -> Heartbeat | None:
        """The last heartbeat of a rank."""
        return read_heartbeat(self.run.heartbeat, rank)

    def rank(self, rank: int) -> Process:
        """The process of a rank of the training."""

        def find() -> Process | None:
            found = with_environment(SLURM_JOB_ID=self.id, SLURM_PROCID=str(rank))
            return next(
                (each for each, name, env in found if name != "slurmstepd" and is_rank(each, env)), None
            )

        process: Process = wait_until(find, f"rank {rank}")
        return process


def belongs_to(process: Process, name: str, job: str) -> bool:
    """Whether it is a process of a job, or a slurmstepd, which says in its title whose it is."""
    try:
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    if name == "slurmstepd":
        return f"[{job}.".encode() in title
    return f"SLURM_JOB_ID={job}".encode() in variables


def half_written(run: RunFolder) -> list[Path]:
    """What writers that were cut off have left."""
    return [path for pattern in ("*.tmp", ".tmp-*", ".trash-*") for path in run.path.rglob(pattern)]


def is_rank(process: Process, environment: dict[str, str]) -> bool:
    """Whether it is a rank of the training, and neither the script nor one of the rank's own children."""
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return "SLURM_STEP_ID" in environment and b"-m\0pretrain\0train\0" in command


def has_pending(process: Process, number: signal.Signals) -> bool:
    """Whether a signal waits for a stopped process."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    masks = re.findall(r"^S(?:ig|hd)Pnd:\s*(\w+)", text, re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def submit(sandbox: Sandbox, config: Path, folder: Path, *overrides: str) -> JobUnderTest:
    """`pretrain submit` of a run in `folder`, in this process."""
    run = RunFolder(str(folder))
    submit_command(str(config), (f"run.dir={folder}", *overrides), None, None, dry_run=False)
    return JobUnderTest(sandbox, run, submissions(run.path)[-1])


def mlflow_status(run: RunFolder) -> tuple[str, str]:
    """State and reason of the one MLflow run in a run folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.database}")
    [found] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return found.info.status, found.data.tags.get("reason", "")


def signal_all(processes: list[Process], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process.pid, number)
