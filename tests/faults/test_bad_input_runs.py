"""Run folders, checkpoints and launchers that do not fit, through the commands: refused, and nothing lost."""

import hashlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input_commands import Commands, documents, write_run
from text_shards import build_shards

from pretrain.checkpoint import newest_good
from pretrain.health.heartbeat import read_heartbeat

pytestmark = pytest.mark.slow
STEP_2, STEP_3 = "checkpoints/step-00000002", "checkpoints/step-00000003"


def checkpoints(run: Path) -> dict[str, str]:
    """Every file of the checkpoints, with its digest."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "checkpoints").rglob("*"))
        if path.is_file()
    }


def test_a_folder_that_holds_another_run(commands: Commands, run: Path, tmp_path: Path) -> None:
    before = checkpoints(run), (run / "metrics.jsonl").read_bytes(), (run / "config.yaml").read_bytes()
    other = build_shards(tmp_path / "shards", documents(41)[1:])
    config = tmp_path / "config.yaml"
    commands.run("train", config, "model.hidden_size=64", "optimizer.lr=2").refused(
        2,
        f"run.dir: {run} holds another run",
        "model.hidden_size: 32 in the run, 64 now (the checkpoint holds another model)",
        "optimizer.lr: 0.001 in the run, 2.0 now",
        "Choose another run.dir, or set these keys back.",
    )
    commands.run("train", config, "run.resume=never").refused(
        2, "run.resume: never, but", "holds checkpoints"
    )
    assert before[2] == (run / "config.yaml").read_bytes()
    commands.run("train", config, f"data.train={other}").refused(
        2,
        f"{run}/{STEP_3}: was trained on other data: fingerprint",
        "Give the shards back, or choose another",
    )
    assert before[:2] == (checkpoints(run), (run / "metrics.jsonl").read_bytes())


def test_a_run_folder_that_is_none(commands: Commands, run: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    commands.run("train", config, f"run.dir={config}").refused(
        2, f"cannot write the run folder {config}: Not a directory"
    )
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").touch()
    commands.run("train", config, f"run.dir={tmp_path}/thesis").refused(
        2, "holds other files but no run (thesis.tex); choose a new or an empty folder"
    )
    assert os.listdir(tmp_path / "thesis") == ["thesis.tex"]
    for name in ("config.resolved.yaml", "status.json"):
        good = (run / name).read_bytes()
        (run / name).write_bytes(b"{\xff")
        commands.run("train", config).refused(2, f"{run}/{name} is damaged")
        commands.run("sync", run).refused(2, f"{run}/{name} is damaged")
        (run / name).write_bytes(good)
    assert commands.run("train", config).code == 0


def test_two_jobs_write_one_run(commands: Commands, good_shards: Path, tmp_path: Path) -> None:
    """The second is refused and told of the first; a killed job's lock is free at once."""
    config = write_run(tmp_path, good_shards, run__steps=100_000, checkpoint__every=50)
    first = commands.start("train", config)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    before = (tmp_path / "run/config.yaml").read_bytes()
    commands.run("train", config, "tracking.experiment=other").refused(
        2, f"{tmp_path}/run is being written by another job: pid {first} on {socket.gethostname()}, started"
    )
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    os.kill(first, signal.SIGKILL)
    assert commands.wait(first).code == -signal.SIGKILL
    third = commands.start("train", config)
    deadline = time.monotonic() + 60
    while (beat := read_heartbeat(tmp_path / "run/heartbeat", 0)) is None or beat.pid != third:
        assert time.monotonic() < deadline, "it does not start"
        time.sleep(0.02)
    os.kill(third, signal.SIGTERM)
    ended = commands.wait(third)
    assert ended.code == 75, ended.said


OTHER_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "wider": (
        {"model__hidden_size": 64},
        "embedding.word_embeddings.weight is [384, 64] F32 in the checkpoint and [384, 32] F32 in the model",
    ),
    "shallower": (
        {"model__num_layers": 1},
        "holds no tensor decoder.layers.1.input_layernorm.weight, which the model has as [32] F32",
    ),
    # Every tensor that the model asks for is there, and of the right shape.
    "deeper": ({"model__num_layers": 3}, "tensors that the model has not: decoder.layers.2."),
    "untied": ({"model__tie_embeddings": False}, "tensors that the model has not: "),
}


@pytest.mark.parametrize("other", OTHER_MODELS)
def test_a_checkpoint_of_another_model(
    commands: Commands, run: Path, good_shards: Path, tmp_path: Path, other: str
) -> None:
    """Copied into the run as its newest: sound, of the same data, and not this model."""
    changes, message = OTHER_MODELS[other]
    config = write_run(tmp_path / "other", good_shards, run__steps=2, **changes)
    assert commands.run("train", config).code == 0
    shutil.rmtree(run / STEP_3)
    (run / STEP_2).rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "other/run" / STEP_2, run / STEP_2)
    before = checkpoints(run)
    commands.run("train", tmp_path / "config.yaml").refused(2, f"{run}/{STEP_2}: ", message)
    assert checkpoints(run) == before
    # Evaluation takes the model from the checkpoint itself, so that is not misled.
    assert commands.run("eval", run, "--data", good_shards).code == 0


def test_a_pickle_in_a_checkpoints_place(commands: Commands, run: Path, tmp_path: Path) -> None:
    pickled = (
        "a zip archive such as torch.save writes, which holds a pickle; not loaded, a pickle can run code"
    )
    torch.save({"a": torch.ones(3)}, tmp_path / "model.pt")
    for command in (["eval"], ["generate", "--prompt", "a"]):
        commands.run(*command, tmp_path / "model.pt").refused(
            2, f"{tmp_path}/model.pt: {pickled}; a checkpoint is a run directory or a step-* folder in it"
        )
    shutil.copy(tmp_path / "model.pt", run / STEP_3 / "weights-rank-0000.safetensors")
    commands.run("eval", run / STEP_3).refused(3, "weights-rank-0000.safetensors: ", pickled)
    shutil.rmtree(run / STEP_2)
    for again in (["train", tmp_path / "config.yaml"], ["eval", run]):
        commands.run(*again).refused(3, "no checkpoint is good; to start over, use a new run.dir", pickled)


def test_a_step_without_manifest(commands: Commands, run: Path, good_shards: Path, tmp_path: Path) -> None:
    (run / STEP_3 / "manifest.json").unlink()
    commands.run("eval", run / STEP_3).refused(
        3,
        f"{run}/{STEP_3}: damaged checkpoint",
        "manifest.json: missing, so this is not a finished checkpoint",
    )
    scored = commands.run("eval", run, "--data", good_shards)
    assert scored.code == 0 and "passed over step-00000003: manifest.json: missing" in scored.said
    trained = commands.run("train", tmp_path / "config.yaml")
    assert trained.code == 0 and f"resumed from {run}/{STEP_2}" in trained.said, trained.said
    assert newest_good(run) == (run / STEP_3, [])


def test_nothing_to_evaluate(commands: Commands, run: Path, tmp_path: Path) -> None:
    commands.run("eval", run).refused(2, "the run has no validation data; name shards to score with --data")
    commands.run("eval", run / "checkpoints/step-00000007").refused(2, "holds the steps", "nearest: ")
    commands.run("eval", run, "--data", tmp_path / "gone").refused(2, "gone: there is no such directory")
    shutil.rmtree(run / "checkpoints")
    for command in (["eval", run], ["generate", run, "--prompt", "a"]):
        commands.run(*command).refused(2, f"{run}: no checkpoint here; expected checkpoints/step-*")


def test_nobody_may_write(
    commands: Commands, run: Path, good_shards: Path, tmp_path: Path, closed_folder: Callable[[], Path]
) -> None:
    place, config = closed_folder(), tmp_path / "config.yaml"
    (tmp_path / "text.txt").write_text("some text")
    commands.run("train", config, f"run.dir={place}/run").refused(
        2, f"cannot write the run folder {place}/run: "
    )
    commands.run("eval", run, "--data", good_shards, "--json", place / "a.json").refused(
        2, f"--json {place}/a.json: cannot be written: "
    )
    source = ["--input", tmp_path / "text.txt", "--output", place / "out"]
    tokenizer = ["--tokenizer", good_shards / "tokenizer"]
    for command in (
        ["data", "build", *source, *tokenizer],
        ["data", "tokenizer", "--model-type", "char", *source],
        ["data", "embedded", "--corpus", "language-reference", "--output", place / "out"],
    ):
        commands.run(*command).refused(2, f"--output {place}/out: cannot be written: ")
    commands.run("quickstart", "--out", place / "quick").refused(2, f"{place}/quick: ")
    assert not list(place.iterdir())


TORCHRUN = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
LAUNCHES: list[tuple[dict[str, object], str]] = [
    ({"RANK": 1}, "RANK=1 is set and WORLD_SIZE is not; torchrun sets both"),
    ({"WORLD_SIZE": 8}, "WORLD_SIZE=8 is set and RANK is not; torchrun sets both"),
    (
        {"RANK": 0, "WORLD_SIZE": 2},
        "torchrun should set RANK, WORLD_SIZE, LOCAL_RANK to integers: 'LOCAL_RANK'",
    ),
    ({**TORCHRUN, "RANK": "x"}, "torchrun should set RANK, WORLD_SIZE, LOCAL_RANK to integers: invalid"),
    ({**TORCHRUN, "RANK": 2}, "torchrun says rank 2 of 2 ranks (RANK, WORLD_SIZE)"),
    ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT=http: MASTER_PORT must be from 1 to 65535"),
    ({**TORCHRUN, "MASTER_PORT": 99_999}, "MASTER_PORT=99999: MASTER_PORT must be from 1 to 65535"),
    (
        {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0},
        "cannot meet the others at MASTER_ADDR=, MASTER_PORT=: ",
    ),
]


@pytest.mark.parametrize(("environment", "message"), LAUNCHES)
def test_half_a_launcher(
    commands: Commands, good_shards: Path, tmp_path: Path, environment: dict[str, object], message: str
) -> None:
    config = write_run(tmp_path, good_shards)
    commands.run("train", config, **environment).refused(2, message)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use(commands: Commands, good_shards: Path, run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in (["train", tmp_path / "config.yaml"], ["eval", run, "--data", good_shards]):
            commands.run(*command, **{**TORCHRUN, "MASTER_PORT": port}).refused(
                2, f"MASTER_PORT={port}: the port is in use; choose another one"
            )


def test_a_wrong_number_of_processes(commands: Commands, run: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    wrong = "3 processes are not a multiple of tensor x pipeline x context = 2 x 1 x 1"
    for command in ("train", "check"):
        commands.run(command, config, "parallel.tensor=2", "--processes", 3).refused(
            2, wrong, "(nearest legal: processes 2 or 4)"
        )
    commands.run("train", config, "--processes", 2, **{**TORCHRUN, "WORLD_SIZE": 4}).refused(
        2, "--processes 2: torchrun has started 4 ranks already"
    )
    # Alone, a layout of two ranks says how many processes it wants.
    commands.run("train", config, "parallel.tensor=2").refused(
        2, "1 process is not a multiple", "processes 2"
    )
    commands.run("eval", run, "parallel.tensor=2").refused(2, "1 process is not a multiple", "processes 2")
    many = 8 * (os.cpu_count() or 1)
    assert commands.run("check", config, f"batch.global_size={2 * many}", "--processes", many).code == 0
