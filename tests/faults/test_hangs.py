"""Ranks that are killed, stopped, stuck, slow or signalled: named, and nobody is left behind.

Ranks are forks of a warm process (`resume_server`), without a launcher that would end them; so what ends
them here is their own watch. Two tests go through the installed command.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hang_faults import STEP
from resume_runs import Life, Runs, Server
from text_shards import build_shards

from pretrain.distributed.ranks import process_state
from pretrain.health.heartbeat import read_heartbeat
from pretrain.proofs.compare import compare_runs, last_step, newest

HOST = socket.gethostname()
LIMIT = "health.hang_timeout=10"
LONG = "run.steps=100000"
VALIDATE = ["data.validation_fraction=0.2", "eval.every=4"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("hangs")
    letters = random.Random(1)
    build_shards(folder / "shards", ["".join(letters.choices("abcdefgh ", k=100)) for _ in range(60)])
    path = folder / "config.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/run, steps: 12, seed: 7}}
model: {{kind: gpt, num_layers: 1, hidden_size: 32, num_attention_heads: 4, dropout: 0.1}}
batch: {{global_size: 12, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
schedule: {{kind: constant}}
data: {{train: {folder}/shards}}
tracking: {{enabled: false}}
"""
    )
    with Server() as server:
        yield Runs(server, path, folder)


def step_of(run: Path) -> int:
    return last_step(run) if (run / "metrics.jsonl").exists() else 0


def begun(life: Life, step: int = 3) -> Life:
    life.until(lambda: step_of(life.run) >= step)
    assert not life.codes, life.said()
    return life


def ended(life: Life, ranks: list[int], within: float) -> dict[int, int]:
    """Exit codes of these ranks, which must all have ended after so many seconds."""
    deadline = time.monotonic() + within
    while not life.ended and not all(life.pids[rank] in life.codes for rank in ranks):
        assert time.monotonic() < deadline, f"{life.codes} after {within} s:\n{life.said()}"
        time.sleep(0.02)
    return {rank: life.codes[life.pids[rank]] for rank in ranks}


def status(life: Life) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((life.run / "status.json").read_text())
    return found


def stacks(life: Life, rank: int) -> str:
    return (life.run / "logs" / f"rank-{rank:04d}.log").read_text()


@pytest.fixture(scope="module")
def hanging(runs: Runs) -> dict[str, Life]:
    """Runs that hang, all at the same time since most of it is waiting."""
    lives = {
        "loader": runs.start(runs.folder / "loader", 3, [LIMIT, LONG], mutation="data_never_come"),
        "alone": runs.start(runs.folder / "alone", 1, [LIMIT, LONG], mutation="data_never_come"),
        "stopped": runs.start(runs.folder / "stopped", 3, [LIMIT, LONG]),
        "first": runs.start(runs.folder / "first", 2, [LIMIT, LONG]),
    }
    begun(lives["stopped"]).signal(signal.SIGSTOP, 1)
    begun(lives["first"]).signal(signal.SIGSTOP, 0)
    return lives


def test_a_loader_that_never_answers(hanging: dict[str, Life]) -> None:
    life = hanging["loader"]
    assert ended(life, [0, 1, 2], 90) == {0: 4, 1: 4, 2: 4}
    said = life.said()
    assert f"pretrain: error: rank 1 on {HOST} in data wait of step {STEP + 1} for " in said
    assert f"ranks 0, 2 wait in all-reduce of signals of step {STEP + 1}" in said
    assert "hang_faults.py" in stacks(life, 1) and "all_reduce" in stacks(life, 0)
    assert said.count("pretrain: error") == 1 and "Traceback" not in said
    found = status(life)
    assert (found["state"], found["exit_code"], found["step"]) == ("failed", 4, STEP)
    assert f"rank 1 on {HOST} in data wait" in found["reason"]


def test_a_single_process_that_hangs(hanging: dict[str, Life]) -> None:
    assert ended(hanging["alone"], [0], 90) == {0: 4}
    assert f"rank 0 on {HOST} in data wait of step {STEP + 1} for " in hanging["alone"].said()


@pytest.mark.parametrize(("name", "culprit", "others"), [("stopped", 1, [0, 2]), ("first", 0, [1])])
def test_a_rank_that_is_stopped(hanging: dict[str, Life], name: str, culprit: int, others: list[int]) -> None:
    life = hanging[name]
    try:
        assert set(ended(life, others, 90).values()) == {4}
        pid = life.pids[culprit]
        said = life.said()
        assert f"pretrain: error: rank {culprit} on {HOST} (pid {pid}) gives no sign of life since" in said
        assert "it is stopped, or its node is gone" in said
        assert all("most recent call first" in stacks(life, rank) for rank in others)
        assert status(life)["exit_code"] == 4
    finally:
        life.signal(signal.SIGCONT, culprit)
    # It sees the verdict as soon as it runs again.
    assert ended(life, [culprit], 60) == {culprit: 4}


def test_a_killed_rank_is_named_by_the_others(runs: Runs) -> None:
    life = begun(runs.start(runs.folder / "killed", 3, [LONG]))
    life.signal(signal.SIGKILL, 2)
    assert ended(life, [0, 1], 60) == {0: 4, 1: 4}
    said = life.said().strip().splitlines()
    assert said[-1].startswith(f"pretrain: error: rank 2 on {HOST} (pid {life.pids[2]}) is gone: killed")
    assert "Traceback" not in life.said()
    assert "rank 2 on" in status(life)["reason"]


def test_the_first_failure_is_told_and_what_it_brings_about_is_not(runs: Runs) -> None:
    life = runs.start(runs.folder / "defect", 3, [LONG], mutation="data_fail")
    assert ended(life, [0, 1, 2], 90) == {0: 1, 1: 1, 2: 1}
    said = life.said()
    place = f"rank 1 on {HOST} failed in data wait of step {STEP + 1}: ValueError: a defect in the loader"
    errors = [line for line in said.splitlines() if line.startswith("pretrain: ")]
    assert errors[0].endswith(place)
    assert said.count("Traceback") == 1 and "closed by peer" not in said
    assert status(life)["reason"] == place


def test_a_straggler_is_told(runs: Runs) -> None:
    life = runs.start(runs.folder / "slow", 3, ["run.steps=70"], mutation="slow_data")
    assert life.wait() == [0, 0, 0], life.said()
    assert f"straggler: rank 1 on {HOST} takes " in life.said()
    lines = [json.loads(line) for line in (life.run / "metrics.jsonl").read_text().splitlines()]
    assert median(line["straggler_ratio"] for line in lines[50:]) > 1.3


def test_a_signal_in_start_up(runs: Runs) -> None:
    """While the model is built: ends at once, leaves no checkpoint, and the same command starts at step 0."""
    run = runs.folder / "early"
    life = runs.start(run, 2, [], mutation="endless_start")
    life.until(lambda: read_heartbeat(run / "heartbeat", 1) is not None)
    life.signal(signal.SIGTERM, 1)
    assert ended(life, [0, 1], 60) == {0: 75, 1: 75}
    assert "stopped by SIGTERM in start-up: nothing is lost" in life.said()
    assert not any((run / "checkpoints").iterdir())
    runs.finish(run, 2, [])
    assert newest(run).step == 12


def test_a_signal_in_validation_and_in_data_waits(runs: Runs) -> None:
    """Both save at the step that is done; the run that goes on is the uninterrupted one."""
    reference, run = runs.folder / "uninterrupted", runs.folder / "interrupted"
    whole = runs.start(reference, 2, VALIDATE)
    life = runs.start(run, 2, VALIDATE, mutation="slow_validation")
    life.until(
        lambda: (beat := read_heartbeat(run / "heartbeat", 0)) is not None and beat.phase == "validation"
    )
    life.signal(signal.SIGUSR1, 1)
    assert ended(life, [0, 1], 60) == {0: 75, 1: 75}
    assert newest(run).step == 4 and newest(run).state["to_validate"]
    life = runs.start(run, 2, VALIDATE, mutation="data_never_come")
    life.until(lambda: step_of(run) == STEP)
    time.sleep(0.2)
    life.signal(signal.SIGTERM, 0)
    assert ended(life, [0, 1], 60) == {0: 75, 1: 75}
    assert newest(run).step == STEP
    runs.finish(run, 2, VALIDATE)
    assert whole.wait() == [0, 0], whole.said()
    found = compare_runs(reference, run)
    assert [item for item in found if item.differing] == []
    validations = [
        [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
        for lines in (
            [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
            for folder in (reference, run)
        )
    ]
    assert validations[0] == validations[1] and len(validations[0]) == 3


def command(runs: Runs, run: Path, *overrides: str) -> "subprocess.Popen[str]":
    arguments = ["train", str(runs.config), "--processes", "2", f"run.dir={run}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pretrain", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks_of(pid: int) -> list[int]:
    """The children of `--processes`, but for the store through which they meet."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if b"/store.py\0" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_until(due: Any, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not due():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_command_names_a_killed_rank_first_and_leaves_nobody(runs: Runs) -> None:
    run = runs.folder / "command-killed"
    with command(runs, run, LONG, LIMIT) as parent:
        wait_until(lambda: (beat := read_heartbeat(run / "heartbeat", 1)) is not None and beat.step >= 3)
        ranks = ranks_of(parent.pid)
        os.kill(ranks[1], signal.SIGKILL)
        _, said = parent.communicate(timeout=600)
        assert parent.returncode == 137
    lines = [line for line in said.splitlines() if line.startswith("pretrain: ")]
    assert lines[-1].startswith(f"pretrain: rank 1 on {HOST} was killed by SIGKILL (last heartbeat: ")
    # Rank 0 may have found it before it was ended itself.
    assert all(f"rank 1 on {HOST}" in line and " of step " in line for line in lines)
    assert "Traceback" not in said
    assert not any(process_state(pid) for pid in ranks)


def test_the_command_stops_on_a_signal_to_a_rank_that_has_only_begun_to_load_python(runs: Runs) -> None:
    with command(runs, runs.folder / "command-early", LONG) as parent:
        wait_until(lambda: len(ranks_of(parent.pid)) == 2)
        os.kill(ranks_of(parent.pid)[1], signal.SIGTERM)
        _, said = parent.communicate(timeout=300)
    assert parent.returncode == 75, said
    assert "stopped by SIGTERM in start-up" in said
