"""Passwords in a config: a run works with them, and nobody but its owner reads them."""

import json
import os
import re
import stat
from pathlib import Path

import pytest
import yaml
from config_files import write_config
from mlflow_server import free_port
from ranks import run_pretrain
from text_shards import build_shards

from pretrain.checkpoint.write import SaveJob, complete
from pretrain.health.stop import StopFiles, StopReason
from pretrain.redact import holds_secret, write_new
from pretrain.run.folder import RunFolder, write_atomically
from pretrain.run.logs import setup_logging
from pretrain.run.status import Status, read_status, write_status

WORD = "hunter2"
URLS = (
    f"http://me:{WORD}@host/",
    f"postgresql+psycopg2://me:{WORD}@host:5432/db",
    f"https://host/shards?token={WORD}",
    f"https://host/a?x=1&X-Amz-Signature={WORD}&y=2",
    f"https://account.blob/a?sv=1&sig={WORD}",
    f"s3://AKIA:{WORD}@bucket/key",
    f"https://host/?api_key={WORD}",
)


def readable(folder: Path) -> dict[str, int]:
    """Files of a folder that hold the password, and their permissions."""
    files = [path for path in folder.rglob("*") if path.is_file() and WORD.encode() in path.read_bytes()]
    return {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in files}


@pytest.mark.parametrize("url", URLS)
def test_files_with_a_secret_are_their_owners(url: str, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_atomically(tmp_path / "config", f"uri: {url}\n")
        write_new(tmp_path / "script", f"x --input '{url}'")
        write_new(tmp_path / "other", "uri: http://host/?page=1")
        step = tmp_path / "step"
        step.mkdir()
        complete(step, SaveJob.of(0, (), b"{}", {"config.yaml": f"uri: {url}".encode()}), {}, lambda _: None)
    finally:
        os.umask(old)
    assert readable(tmp_path) == {"config": 0o600, "script": 0o600, "step/config.yaml": 0o600}
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o666
    assert stat.S_IMODE((tmp_path / "step" / "state.json").stat().st_mode) == 0o666


@pytest.mark.parametrize("url", URLS)
def test_a_path_is_no_secret(url: str) -> None:
    """`pretrain register` refuses files with secrets, and a folder may be named like a query."""
    assert holds_secret(f"uri: {url}\n")
    assert not holds_secret("train: /data/x?key=1\nuri: http://host/?page=1\n")


@pytest.mark.parametrize("url", URLS)
def test_what_others_may_read_holds_none(url: str, tmp_path: Path) -> None:
    import logging

    run = RunFolder(tmp_path)
    datasets = [{"context": "training", "path": url, "fingerprint": "f"}]
    status = Status("r", 1, "failed", 1, 2, 0.0, 0.0, f"cannot read {url}: no", 2, {"layout": "l"}, datasets)
    write_status(run, status)
    read = read_status(run)
    assert read is not None and (read.run, read.facts, read.datasets[0]["fingerprint"]) == (
        "r",
        {"layout": "l"},
        "f",
    )
    with setup_logging(tmp_path / "rank.log", 0):
        logging.getLogger("pretrain").info("tracking.uri is now %r, it was %r", url, None)
    assert "tracking.uri is now" in (tmp_path / "rank.log").read_text()
    assert readable(tmp_path) == {}


@pytest.mark.slow
def test_a_run_with_a_password_resumes_and_syncs(tmp_path: Path) -> None:
    """The command line has it, which processes show anyway; no file for others and no output has."""
    shards = build_shards(tmp_path / "shards", [f"{number} bottles of beer " * 5 for number in range(60)])
    server = f"http://me:{WORD}@127.0.0.1:{free_port()}"
    config = write_config(
        tmp_path / "config.yaml",
        model={"kind": "gpt", "num_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
        batch={"global_size": 2, "micro_size": 2, "sequence_length": 16},
        data={"train": str(shards)},
        run={"dir": str(tmp_path / "run"), "steps": 2},
        schedule={"decay_steps": 4, "warmup_steps": 1},
        checkpoint={"every": 1},
    )

    for steps in (2, 4):
        done = run_pretrain("train", config, f"tracking.uri={server}", f"run.steps={steps}")
        assert done.returncode == 0, done.stderr
        assert WORD not in done.stdout + done.stderr
    run = tmp_path / "run"
    found = readable(run)
    assert set(found.values()) == {0o600}
    configs = {"config.yaml", "config.resolved.yaml"}
    assert found.keys() >= configs | {f"checkpoints/step-00000004/{name}" for name in configs}
    assert {Path(name).name for name in found} == configs
    assert yaml.safe_load((run / "config.resolved.yaml").read_text())["tracking"]["uri"] == server
    synced = run_pretrain("sync", str(run))
    assert synced.returncode == 2
    assert re.search(r"MLflow at http://\*\*\*@127\.0\.0\.1:\d+ does not take", synced.stderr), synced.stderr
    assert json.loads((run / "status.json").read_text())["step"] == 4


def test_a_verdict_holds_none(tmp_path: Path) -> None:
    board = StopFiles(tmp_path, "job")
    said = board.post(StopReason(2, f"cannot read {URLS[0]}x", 0, 0, at_once=False))
    assert said.message == "cannot read http://***@host/x"
    assert board.verdict() == said and readable(tmp_path) == {}
