"""Jobs that fail in every way a cluster knows: the culprit is named, the nodes are free, nobody is left.

All are started at once, since most of it is waiting, and each is hurt once it trains.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Hold, JobUnderTest, mlflow_status, submit, wait_until

from pretrain.run.status import read_status
from slurm.sandbox.cluster import Sandbox
from slurm.sandbox.processes import process_of

pytestmark = pytest.mark.slow
LONG = ("run.steps=100000", "checkpoint.every=100000")
LIMIT = 8
"""`health.hang_timeout`, in seconds."""
FOUND = LIMIT + 60
"""Seconds after which a rank that hangs must be named: the limit, a second look, and a busy machine."""
MORE = {"defect": ("tracking.enabled=true",), "absent": ("health.join_timeout=3",)}


@pytest.fixture(scope="module")
def jobs(
    sandbox: Sandbox, config: Path, hold: Hold, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, JobUnderTest]]:
    folder = tmp_path_factory.mktemp("failures")
    found = {}
    for name in ("killed", "launcher", "stopped", "loader", "defect", "absent"):
        held = hold.job(name)
        if name == "absent":
            hold.put(name, "start-1")
        overrides = (*LONG, *held, *MORE.get(name, ()), f"health.hang_timeout={LIMIT}")
        found[name] = submit(sandbox, config, folder / name, *overrides)
    yield found
    for job in found.values():
        if job.state().is_active:  # its test has failed
            sandbox.run("scancel", "--full", job.id)


def last_line(job: JobUnderTest) -> str:
    return job.log.rstrip().splitlines()[-1]


def culprit(job: JobUnderTest) -> str:
    return f"rank 1 on {job.attempts[0].nodes[1]}"


def stacks(job: JobUnderTest, rank: int) -> str:
    return job.run.rank_log(rank).read_text()


def ended(job: JobUnderTest, code: int, within: float) -> None:
    """The job has failed, for good, with all its processes, `within` seconds from now."""
    began = time.monotonic()
    assert job.until_ended().state == "FAILED", job.log
    seconds = time.monotonic() - began
    print(f"{job.run.path.name}: {seconds:.1f} s")
    assert seconds < within, job.log
    [attempt] = job.attempts
    assert attempt.code == code, job.log


def test_a_killed_rank_frees_the_nodes(jobs: dict[str, JobUnderTest]) -> None:
    job = jobs["killed"]
    job.until_step(3)
    job.rank(1).send(signal.SIGKILL)
    ended(job, 137, within=120)
    assert last_line(job).startswith(f"pretrain job: stopped: {culprit(job)}: Killed")


def test_a_killed_slurmstepd_is_found(jobs: dict[str, JobUnderTest]) -> None:
    """Slurm itself would leave the job running."""
    job = jobs["launcher"]
    job.until_step(3)
    rank = job.rank(1)
    fields = Path(f"/proc/{rank.pid}/stat").read_text().rpartition(")")[2].split()
    parent = process_of(int(fields[1]))
    assert parent is not None and Path(f"/proc/{parent.pid}/comm").read_text() == "slurmstepd\n"
    parent.send(signal.SIGKILL)
    said = f"the launcher of {culprit(job)} (pid {rank.pid}) is gone"
    wait_until(lambda: said in job.log, "its name", FOUND)
    ended(job, 4, within=120)
    assert said in last_line(job)


def test_a_stopped_rank_is_named_and_ended(jobs: dict[str, JobUnderTest]) -> None:
    job = jobs["stopped"]
    job.until_step(3)
    rank = job.rank(1)
    rank.send(signal.SIGSTOP)
    said = f"{culprit(job)} (pid {rank.pid}) gives no sign of life since"
    wait_until(lambda: said in job.log, "its name", FOUND)
    ended(job, 4, within=120)
    assert last_line(job).startswith(f"pretrain job: stopped: {said}")
    assert "most recent call first" in stacks(job, 0)


def test_a_loader_that_sleeps_is_named(jobs: dict[str, JobUnderTest], hold: Hold) -> None:
    job = jobs["loader"]
    job.until_step(3)
    hold.put("loader", "data-1")
    wait_until(lambda: f"{culprit(job)} in data wait of step" in job.log, "its name", FOUND)
    ended(job, 4, within=120)
    assert "rank 0 waits in all-reduce of signals of step" in last_line(job)
    assert "held.py" in stacks(job, 1)
    assert "all_reduce" in stacks(job, 0)


def test_a_defect_is_told_first_and_in_mlflow(jobs: dict[str, JobUnderTest], hold: Hold) -> None:
    job = jobs["defect"]
    job.until_step(3)
    hold.put("defect", "fail-1")
    ended(job, 1, within=120)
    reason = f"{culprit(job)} failed in data wait of step "
    errors = [line for line in job.log.splitlines() if "pretrain: " in line]
    assert reason in errors[0]
    assert job.log.count("Traceback") == 1
    assert reason in last_line(job) and "ValueError: a defect in the loader" in last_line(job)
    status = read_status(job.run)
    assert status is not None and (status.state, status.exit_code) == ("failed", 1)
    state, told = mlflow_status(job.run)
    assert state == "FAILED"
    assert reason in told


def test_a_rank_that_never_comes_is_named(jobs: dict[str, JobUnderTest]) -> None:
    job = jobs["absent"]
    ended(job, 4, within=120)
    first, second = job.attempts[0].nodes
    assert f"rank 1 (on {second}) of 2 did not come within 3 s (health.join_timeout)" in job.log
    assert f"rank 0 on {first} waited at MASTER_ADDR={first}, MASTER_PORT=" in job.log
    assert last_line(job).startswith(f"pretrain job: stopped: rank 1 (on {second})")
    assert not job.run.metrics.exists()
