"""A job that is disturbed in every way a cluster knows ends as if nothing had been."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Hold, JobUnderTest, has_pending, kill_node, signal_all, submit, wait_until

from pretrain.proofs.compare import compare_runs, newest
from pretrain.run.status import read_status
from slurm.sandbox.cluster import Sandbox
from slurm.submission import bad_nodes

pytestmark = pytest.mark.slow
LONG = ("run.steps=1000", "checkpoint.every=200", "eval.every=50")
WARNING = "slurm.signal_seconds=110"
"""Before a limit of one to two minutes."""


def reason_of(job: JobUnderTest) -> str:
    status = read_status(job.run)
    assert status is not None and status.state == "stopped"
    return status.reason or ""


def time_limit(job: JobUnderTest, hold: Hold) -> None:
    """Ranks are held until Slurm's warning is there: it comes up to half a minute after its time."""
    ranks = [job.rank(0), job.rank(1)]
    signal_all(ranks, signal.SIGSTOP)
    minutes = int((time.time() - job.attempts[-1].began) / 60) + 2
    job.sandbox.run("scontrol", "update", f"JobId={job.id}", f"TimeLimit={minutes}")
    wait_until(
        lambda: all(has_pending(rank, signal.SIGUSR1) for rank in ranks), "the warning before the limit"
    )
    signal_all(ranks, signal.SIGCONT)
    job.until_requeued()
    job.sandbox.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")
    assert "SIGUSR1" in reason_of(job)


def requeue(job: JobUnderTest, hold: Hold) -> None:
    job.sandbox.run("scontrol", "requeue", job.id)
    job.until_requeued()
    assert "SIGTERM" in reason_of(job)


def one_rank_in_validation(job: JobUnderTest, hold: Hold) -> None:
    """The checkpoint is of the step before; the next attempt validates again."""
    file = hold.put("disturbed", "validation")
    wait_until(file.with_name("validates-1").exists, "a validation that is held")
    wait_until(lambda: (beat := job.beat(1)) and beat.phase == "validation", "its heartbeat")
    job.rank(1).send(signal.SIGTERM)
    wait_until(lambda: job.attempts[-1].ended, "the end of the attempt")
    file.unlink()
    job.until_requeued()
    assert "SIGTERM" in reason_of(job)
    assert newest(job.run.path).state["to_validate"]


def preemption(job: JobUnderTest, hold: Hold) -> None:
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--exclusive", "--wrap=sleep 1"]
    other = job.sandbox.run(*urgent, "--output=/dev/null")
    job.until_requeued()
    wait_until(
        lambda: "JobState=COMPLETED" in job.sandbox.run("scontrol", "show", "job", other), "the urgent job"
    )
    assert "SIGTERM" in reason_of(job)


def during_start(job: JobUnderTest) -> None:
    """The warning comes before there is anything to save."""
    job.sandbox.run("scancel", "--batch", "--signal=USR1", job.id)
    job.until_requeued()
    assert job.attempts[0].code == 75


def lost_node(job: JobUnderTest, hold: Hold) -> None:
    """slurmd and all that it runs are gone, as with a machine without power."""
    node = job.attempts[-1].nodes[-1]
    rank = job.rank(1)
    kill_node(job.sandbox, node)
    rank.send(signal.SIGKILL)
    job.until_requeued()
    wait_until(lambda: job.attempts[-1].restart == job.state().restarts, "the next attempt")
    assert node not in job.attempts[-1].nodes
    # The job, or Slurm, whoever finds it first.
    assert bad_nodes(job.run.path)[node].startswith(("answered no more in job ", "down in job "))
    job.sandbox.start_node(node)


def node_down(job: JobUnderTest, hold: Hold) -> None:
    """Its operator takes a node away."""
    node = job.attempts[-1].nodes[-1]
    job.sandbox.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    job.until_requeued()
    wait_until(lambda: job.attempts[-1].restart == job.state().restarts, "the next attempt")
    assert node not in job.attempts[-1].nodes
    assert bad_nodes(job.run.path)[node].startswith("down in job ")
    job.sandbox.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


# A lost node costs the steps since the last checkpoint, and two of them in a row would end the job.
DISTURBANCES = (time_limit, requeue, lost_node, one_rank_in_validation, node_down, preemption)


def test_a_disturbed_run_equals_the_undisturbed(
    sandbox: Sandbox, config: Path, hold: Hold, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    command = [sys.executable, "-m", "pretrain", "train", str(config), f"run.dir={undisturbed}", *LONG]
    alone = subprocess.Popen(
        [*command, "--processes", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    job = submit(sandbox, config, tmp_path / "run", *LONG, WARNING, *hold.job("disturbed", 0.02))
    job.until_attempt(1)
    during_start(job)
    for number, disturb in enumerate(DISTURBANCES, 2):
        job.until_attempt(number)
        job.until_trains()
        began = time.monotonic()
        disturb(job, hold)
        print(f"{disturb.__name__}: {time.monotonic() - began:.1f} s, {[a.step for a in job.attempts]}")
    assert job.until_ended().state == "COMPLETED", job.log
    assert job.log.rstrip().endswith("pretrain job: finished: all steps are done")
    assert alone.wait() == 0
    for comparison in compare_runs(undisturbed, job.run.path):
        assert comparison.compared > 0
        assert comparison.differing == 0, comparison.first
