"""No child outlives the command that started it, whatever ends that: a signal, or a kill."""

import os
import signal
import socket
from pathlib import Path

import pytest
import small_run
from bad_input_commands import Commands, write_run
from family import Family, pretrain, stop

from pretrain.checkpoint import newest_good
from pretrain.proofs.compare import last_step
from pretrain.run.folder import RunFolder

pytestmark = pytest.mark.slow
LONG = 1_000_000
ENDS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def long_run(folder: Path, shards: Path, **changes: object) -> Path:
    return write_run(
        folder, shards, run__steps=LONG, data__validation_fraction=0.2, schedule__warmup_steps=1, **changes
    )


def steps_of(folder: Path) -> int:
    """Of the newest run below a folder."""
    return max((last_step(path.parent) for path in folder.rglob("metrics.jsonl")), default=0)


@pytest.mark.parametrize("number", ENDS)
def test_training(good_shards: Path, tmp_path: Path, number: int) -> None:
    """Two ranks, their store and the uploader; a rank that may save does so."""
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    config = long_run(tmp_path, good_shards, tracking=tracking)
    command = pretrain("train", config, "--processes", 2)
    with Family(tmp_path / "log", *command) as family:
        family.until(lambda: steps_of(tmp_path) > 1)
        assert len(family.with_words("pretrain train")) == 2
        assert family.with_words("store.py") and family.with_words("pretrain.tracking.uploader")
        code = family.end(number)
    found = newest_good(tmp_path / "run")[0]
    if number in (signal.SIGTERM, signal.SIGINT):
        assert (code, found is not None) == (75, True), family.said()
    else:
        assert (code, found) == (-number, None), family.said()


@pytest.mark.parametrize("number", ENDS[:2])
def test_a_proof_of_resume(good_shards: Path, tmp_path: Path, number: int) -> None:
    config = long_run(tmp_path, good_shards)
    command = pretrain("verify-resume", config, "--processes", 2, "--steps", LONG // 2)
    with Family(tmp_path / "log", *command) as family:
        family.until(lambda: steps_of(tmp_path) > 1)
        assert len(family.with_words("pretrain train")) == 3
        assert family.end(number) == (75 if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "error: stopped by SIGTERM: without a stop: `pretrain train` ended with " in family.said()
        [run] = tmp_path.rglob("uninterrupted")
        assert newest_good(run)[0] is not None


@pytest.mark.parametrize("number", ENDS[:2])
def test_a_proof_of_layouts(good_shards: Path, tmp_path: Path, number: int) -> None:
    config = long_run(tmp_path, good_shards)
    command = pretrain("parity", config, "--layouts", "DP2", "--steps", LONG)
    with Family(tmp_path / "log", *command) as family:
        family.until(lambda: "training, one process" in family.said())
        assert family.with_words("pretrain.proofs.rank")
        assert family.end(number) == (128 + number if number == signal.SIGTERM else -number)


def test_a_quickstart_that_is_killed(tmp_path: Path) -> None:
    with Family(tmp_path / "log", *pretrain("quickstart"), cwd=tmp_path) as family:
        family.until(lambda: family.with_words("pretrain data tokenizer"))
        for pid in family.with_words("pretrain data tokenizer"):
            stop(pid, signal.SIGSTOP)  # or it might end by itself
        assert family.end(signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "quickstart/gpt").exists()


def test_a_quickstart_that_is_stopped(tmp_path: Path) -> None:
    with Family(tmp_path / "log", *pretrain("quickstart"), cwd=tmp_path) as family:
        family.until(lambda: steps_of(tmp_path) > 1)
        assert family.end(signal.SIGTERM) == 75
    assert "error: stopped by SIGTERM: the command above ended with exit code 75" in family.said()
    assert newest_good(tmp_path / "quickstart/gpt")[0] is not None


def test_an_evaluation_that_waits(tmp_path: Path) -> None:
    """Beside a run that goes on."""
    run = tmp_path / "run"
    trains = [small_run.__file__, run, f"sqlite:///{tmp_path}/mlflow.db", 0, 200, tmp_path / "never"]
    with Family(tmp_path / "train.log", *trains) as trainer:
        trainer.until(lambda: last_step(run) == 100)
        with Family(tmp_path / "log", *pretrain("eval", run, "--watch", "--processes", 2)) as family:
            family.until(lambda: "waiting for checkpoints" in family.said())
            assert len(family.with_words("pretrain eval")) == 2
            assert family.end(signal.SIGKILL) == -signal.SIGKILL


def test_an_evaluation_that_tells_mlflow(commands: Commands, good_shards: Path, tmp_path: Path) -> None:
    """Of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        config = write_run(tmp_path, good_shards, data__validation_fraction=0.2)
        ended = commands.run("train", config)
        assert ended.code == 0, ended.said
        resolved = RunFolder(tmp_path / "run").resolved
        text = resolved.read_text().replace("enabled: false", f"enabled: true\n  uri: {uri}")
        resolved.write_text(text)
        with Family(tmp_path / "log", *pretrain("eval", tmp_path / "run")) as family:
            family.until(lambda: family.with_words("pretrain.tracking.uploader", "--once"))
            for pid in family.with_words("pretrain.tracking.uploader"):
                stop(pid, signal.SIGSTOP)
            assert family.end(signal.SIGTERM) == -signal.SIGTERM


def test_a_doctor(tmp_path: Path) -> None:
    with Family(tmp_path / "log", *pretrain("doctor")) as family:
        family.until(lambda: len(family.with_words("exchange_as_rank")) == 2)
        for pid in family.with_words("exchange_as_rank"):
            stop(pid, signal.SIGSTOP)  # as where gloo hangs
        assert family.end(signal.SIGKILL) == -signal.SIGKILL


POOL = """
import time
from data_tools.pool import run_tasks

def sleep(seconds, report):
    print("at work", flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    list(run_tasks(sleep, [100_000, 100_000], 2, print))
"""


def test_workers_of_a_build(tmp_path: Path) -> None:
    """That do not come to report."""
    (tmp_path / "build.py").write_text(POOL)
    with Family(tmp_path / "log", tmp_path / "build.py") as family:
        family.until(lambda: family.said().count("at work") == 2)
        assert family.end(signal.SIGTERM) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_sandbox_that_is_not_up_yet(tmp_path: Path, number: int) -> None:
    """Its daemons go on when it is; nothing tells that its nodes are idle."""
    hangs = tmp_path / "sinfo"
    hangs.write_text("#!/bin/sh\nexec sleep 100000\n")
    hangs.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with Family(
        tmp_path / "log", "-m", "slurm.sandbox", "up", "--dir", tmp_path / "sandbox", PATH=path
    ) as family:
        family.until(lambda: family.with_words("slurmctld") and family.with_words("sleep 100000"))
        assert family.end(number) == 128 + number


RENDERER = """
from pretrain.gpt.chat.renderer import Renderer
endless = "{% for _ in range(10 ** 5) %}{% for _ in range(10 ** 5) %}{% endfor %}{% endfor %}"
renderer = Renderer(endless, "a.jinja", seconds=100_000)
print("at work", flush=True)
renderer.render({})
"""


def test_a_chat_template_without_end(tmp_path: Path) -> None:
    with Family(tmp_path / "log", "-c", RENDERER) as family:
        family.until(lambda: "at work" in family.said())
        assert family.end(signal.SIGKILL) == -signal.SIGKILL


def test_programs_of_others(tmp_path: Path) -> None:
    """A Slurm that hangs."""
    hangs = tmp_path / "scontrol"
    hangs.write_text("#!/bin/sh\nexec sleep 100000\n")
    hangs.chmod(0o755)
    ask = "from pretrain.distributed import rendezvous as r; r.first_host({'SLURM_STEP_NODELIST': 'n[1-2]'})"
    with Family(tmp_path / "log", "-c", ask, PATH=f"{tmp_path}:/usr/bin:/bin") as family:
        family.until(lambda: family.with_words("sleep 100000"))
        assert family.end(signal.SIGKILL) == -signal.SIGKILL
