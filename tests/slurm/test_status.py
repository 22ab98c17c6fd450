"""`pretrain status` of runs with jobs that wait, run, and have failed before a rank began."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from small_run import config_for, open_run

from pretrain.config.sections import CheckpointConfig, GptConfig
from pretrain.errors import HealthError, StoppedEarly
from pretrain.run.folder import RunFolder
from pretrain.run.status import is_over
from slurm.job import mark_cancelled
from slurm.status import status_command
from slurm.submission import Attempt, Submission, new_submission
from slurm.watch import cancel_command

METRICS = {"loss": 1.0, "tokens_per_second": 128.0}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> GptConfig:
    """50 steps, saved every 20th."""
    plain = config_for(tmp_path / "run", None, enabled=False)
    return plain.model_copy(update={"checkpoint": CheckpointConfig(every=20)})


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    found = new_submission(tmp_path / "run")
    found.sent("7")
    return found


def slurm_says(folder: Path, state: str, reason: str, patch: pytest.MonkeyPatch) -> None:
    """A `scontrol` that knows job 7, in words of Slurm 22.05."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    line = f"JobId=7 JobName=run UserId=me(1) JobState={state} Reason={reason} NodeList=(null) Restarts=0"
    (programs / "scontrol").write_text(f"#!/bin/sh\necho '{line}'\n")
    (programs / "scontrol").chmod(0o755)
    patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def step(config: GptConfig, first: int, last: int) -> None:
    """A job that fails after the last of these steps, which it has not saved."""
    with suppress(HealthError), open_run(config) as run:
        run.begin(first - 1)
        for number in range(first, last + 1):
            run.log_step(number, METRICS)
        raise HealthError("the loss is nan")


def shown(config: GptConfig, capsys: Capture) -> dict[str, str]:
    capsys.readouterr()
    status_command(config.run.dir)
    return {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}


def saved(config: GptConfig, number: int) -> None:
    folder = Path(config.run.dir) / "checkpoints" / f"step-{number:06d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_job_that_waits_promises_no_time(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was killed after step 35, with a checkpoint of step 10: the next one after 10 is 20, not 40."""
    slurm_says(tmp_path, "PENDING", "Priority", monkeypatch)
    step(config, 1, 35)
    saved(config, 10)
    found = shown(config, capsys)
    assert found["job"] == "7 is pending (Priority)"
    assert found["next save"] == "step 20"
    assert found["remaining"].endswith(" of training")


def test_a_job_that_runs_promises_a_time_once_it_steps(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm_says(tmp_path, "RUNNING", "None", monkeypatch)
    step(config, 1, 35)
    saved(config, 10)
    with open_run(config) as run:
        run.begin(10)
        assert shown(config, capsys)["next save"] == "step 20"
        for number in (11, 12, 13):
            run.log_step(number, METRICS)
        found = shown(config, capsys)
        assert found["state"] == "running" and found["job"] == "7 is running"
        assert found["next save"].startswith("step 20, in 0:00:0")
        assert " " not in found["remaining"]


def test_a_run_without_a_job_saves_nothing_more(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm_says(tmp_path, "FAILED", "NonZeroExitCode", monkeypatch)
    step(config, 1, 35)
    found = shown(config, capsys)
    assert found["state"] == "failed: the loss is nan"
    assert "next save" not in found


def test_attempts_of_all_submissions(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def note(of: Submission, job: str, restart: int, verdict: str | None) -> None:
        of.note(Attempt(job, restart, ("n1", "n2"), 20 * restart, 1.0, verdict=verdict))

    first = submission
    note(first, "5", 0, "again: stopped by SIGUSR1")
    note(first, "5", 1, None)
    second = new_submission(Path(config.run.dir))
    second.sent("7")
    note(second, "7", 0, None)
    slurm_says(tmp_path, "RUNNING", "None", monkeypatch)
    found = shown(config, capsys)
    assert found["restarts"] == "0"
    gone = "went without a word: Slurm took the job, or lost a node"
    assert [found.get(f"attempt {number}") for number in (1, 2, 3, 4)] == [
        "0001, from step 0 on n1, n2: again: stopped by SIGUSR1",
        f"0001, from step 20 on n1, n2: {gone}",
        "0002, from step 0 on n1, n2: the newest",
        None,
    ]
    slurm_says(tmp_path, "NODE_FAIL", "None", monkeypatch)
    assert shown(config, capsys)["attempt 3"] == f"0002, from step 0 on n1, n2: {gone}"


def test_a_script_that_fails_before_its_ranks_says_why(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm_says(tmp_path, "FAILED", "NonZeroExitCode", monkeypatch)
    found = shown(config, capsys)
    assert found["job"] == "7 is failed (NonZeroExitCode)"
    assert found["last line"] == f"none: the job has printed nothing into {submission.path}"
    log = submission.path / "job-7.log"
    with open(log, "w") as file:  # as bash says it of a node without the container's program
        subprocess.run(
            ["bash", "-c", "apptainer-of-no-node exec image\necho; exit 4"], stdout=file, stderr=file
        )
    assert "apptainer-of-no-node: command not found" in shown(config, capsys)["last line"]
    submission.note(Attempt("7", 0, ("n1",), 0, 1.0, verdict="stopped: the loss is nan"))
    assert "last line" not in shown(config, capsys)


def test_a_job_that_cannot_be_asked_about(
    config: GptConfig,
    submission: Submission,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown(config, capsys)["state"] == "submitted as job 7; there is no Slurm here to ask about it"
    new_submission(Path(config.run.dir))
    assert shown(config, capsys)["state"].startswith("not sent: sbatch has not taken ")


def test_a_run_of_which_no_job_has_left_a_word(config: GptConfig, capsys: Capture) -> None:
    """Killed between its config and its first status."""
    with suppress(HealthError), open_run(config):
        raise HealthError("before it began")
    (Path(config.run.dir) / "status.json").unlink(missing_ok=True)
    assert shown(config, capsys)["state"] == "unknown: no job has written status.json"


def test_a_run_that_was_cancelled_is_over(config: GptConfig) -> None:
    """`eval --watch` would wait for its next checkpoint for ever."""
    with suppress(StoppedEarly), open_run(config) as run:
        run.begin(0)
        raise StoppedEarly("by SIGTERM")
    folder = RunFolder(config.run.dir)
    assert not is_over(folder)
    mark_cancelled(folder, "cancelled while its job waited")
    assert is_over(folder)


def test_a_path_with_a_space_is_one_word_of_a_command(
    config: GptConfig, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "my run"
    new_submission(run).sent("7")
    slurm_says(tmp_path, "RUNNING", "None", monkeypatch)
    scancel = tmp_path / "programs" / "scancel"
    scancel.write_text("#!/bin/sh\n")
    scancel.chmod(0o755)
    cancel_command(str(run), now=False)
    assert f"`pretrain logs '{run}'` shows it" in capsys.readouterr().out
