"""`pretrain eval --watch` beside a run at work: each checkpoint is scored as it comes, until the run ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from text_shards import build_shards
from typer.testing import CliRunner

from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor
from pretrain.cli import app
from pretrain.config.sections import CheckpointConfig
from pretrain.run.folder import RunFolder
from pretrain.run.status import actual_status

EVERY, STEPS = 100, 400


def wait_until(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_checkpoints_are_scored_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_shards(tmp_path / "shards", [f"{number} green bottles on the wall. " * 5 for number in range(30)])
    run = RunFolder(tmp_path / "run")
    config = {
        "run": {"dir": str(run.path), "steps": STEPS},
        "model": {"kind": "gpt", "num_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
        "batch": {"global_size": 16, "micro_size": 1, "sequence_length": 32},
        "optimizer": {"lr": 1e-2},
        "data": {"train": str(tmp_path / "shards"), "validation_fraction": 0.2},
        "checkpoint": {"every": EVERY, "keep_last": STEPS // EVERY},
        "tracking": {"enabled": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("evals.batch.LOOK_SECONDS", 0.1)
    trainer = subprocess.Popen(
        [sys.executable, "-m", "pretrain", "train", str(tmp_path / "config.yaml")], stderr=subprocess.DEVNULL
    )
    seen = []

    def go_on() -> None:
        """The run stands still until its first score is there."""
        wait_until(run.evaluations, trainer)
        status = actual_status(run)
        seen.append(status.state if status else None)
        os.kill(trainer.pid, signal.SIGCONT)

    wait_until(run.checkpoints / f"step-{EVERY:08d}", trainer)
    os.kill(trainer.pid, signal.SIGSTOP)
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        said = CliRunner().invoke(app, ["eval", str(run.path), "--watch"], catch_exceptions=False)
    finally:
        os.kill(trainer.pid, signal.SIGCONT)
        thread.join()
    assert trainer.wait(timeout=300) == 0 and said.exit_code == 0, said.output
    assert seen == ["running"], "the first score was there before the run's end"
    lines = [json.loads(line) for line in run.evaluations.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(EVERY, STEPS + 1, EVERY))
    assert lines[-1]["token_perplexity"] < lines[0]["token_perplexity"]
    assert "waiting for checkpoints" in said.output


def test_what_was_saved_while_updates_were_skipped_is_passed_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    Saver(run.path, CheckpointConfig(), 0, 1, LocalCoordinator()).save(
        14, [ShardedTensor.whole("w", torch.zeros(2))], {"step": 14, "suspect_since": 13}
    )
    for path in (run.config, run.resolved):
        path.write_text("run: {dir: run}\n")
    said = CliRunner().invoke(app, ["eval", str(run.path), "--all"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert (
        "passed over step-00000014: it was saved while updates were skipped, from step 13 on" in said.output
    )
    assert not run.evaluations.exists()
