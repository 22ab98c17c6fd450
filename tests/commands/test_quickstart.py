"""The front door: the real `pretrain quickstart`, once, and what a user finds afterwards."""

import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pretrain.commands.quickstart.command import quickstart_command
from pretrain.commands.quickstart.gpt import VOCAB_SIZE
from pretrain.commands.quickstart.runner import Runner
from pretrain.config.load import read_config
from pretrain.data.sources import open_training, open_validation
from pretrain.errors import UserError

STEPS = 300
LIMIT = 1200  # seconds, on a machine that is busy with other things


@dataclass(frozen=True)
class Finished:
    """A quickstart that was run in `work`."""

    work: Path
    output: str
    errors: str

    @property
    def run(self) -> Path:
        return self.work / "quickstart" / "gpt"

    @property
    def metrics(self) -> dict[str, float]:
        result = json.loads((self.work / "quickstart" / "perplexity.json").read_text())
        assert result["step"] == STEPS
        metrics: dict[str, float] = result["metrics"]
        return metrics

    @property
    def journal(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work = tmp_path_factory.mktemp("front-door")
    command = [sys.executable, "-m", "pretrain", "quickstart"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return Finished(work, done.stdout, done.stderr)


def unigram_perplexity(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the held-out tokens under the token frequencies of the training part, one added to each count."""
    monkeypatch.chdir(finished.work)
    config = read_config(str(finished.run / "config.resolved.yaml")).config
    [training], held_out = open_training(config), open_validation(config)
    assert held_out is not None
    counts = np.bincount(training.reader.read(training.start, training.stop), minlength=VOCAB_SIZE) + 1
    tokens = held_out[0].reader.read(held_out[0].start + 1, held_out[0].stop)
    return float(np.exp(-np.log(counts / counts.sum())[tokens].mean()))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
def test_it_ends_with_a_table_of_what_it_did(finished: Finished) -> None:
    table = finished.output[finished.output.rindex("quickstart  ") :]
    for stage in ("text", "tokenizer", "shards", "training", "evaluation", "sample", "picture", "all"):
        assert re.search(rf"[│ ] {stage} ", table), stage
    assert f"perplexity {finished.metrics['token_perplexity']:.1f} by token" in " ".join(
        re.sub(r"[│\n]", " ", table).split()
    )
    assert "mlflow ui --backend-store-uri" in table
    assert "Traceback" not in finished.output + finished.errors
    known = ("the model looks at nothing yet", "next sentences are learnt after tokens", "fewer than 2,048")
    known += ("sends the rest", "sends it", "straggler: ")  # on a busy machine
    warnings = [line for line in finished.errors.splitlines() if "warning" in line.lower()]
    assert [line for line in warnings if not any(words in line for words in known)] == []


@pytest.mark.slow
def test_the_bert_and_the_gan_have_learnt(finished: Finished) -> None:
    results = finished.work / "quickstart"
    masked = json.loads((results / "masked.json").read_text())["metrics"]
    assert masked["mlm_accuracy"] > 3 * masked["mlm_baseline_accuracy"]
    distances = json.loads((results / "distances.json").read_text())["metrics"]
    (distance,) = (value for name, value in distances.items() if name.startswith("fd_"))
    assert distance < 200  # noise is above 2,000
    assert (results / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_it_shows_each_command_as_a_user_would_type_it(finished: Finished) -> None:
    shown = re.findall(r"^\$ pretrain (\w+)", finished.output, re.MULTILINE)
    assert shown[:7] == ["data", "data", "data", "configs", "train", "eval", "generate"]
    assert shown[7:13] == ["data", "data", "data", "configs", "train", "eval"]
    assert shown[13:] == [*["data"] * 3, "configs", "train", "configs", "train", "eval", "generate"]


@pytest.mark.slow
def test_the_model_has_learnt(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    perplexity = finished.metrics["token_perplexity"]
    unigram = unigram_perplexity(finished, monkeypatch)
    assert unigram < VOCAB_SIZE
    assert perplexity < unigram / 3
    validation = [line["validation_loss"] for line in finished.journal if "validation_loss" in line]
    assert len(validation) == 3 and validation == sorted(validation, reverse=True)
    assert perplexity == pytest.approx(math.exp(validation[-1]), rel=1e-5)


@pytest.mark.slow
def test_picture_and_sample_are_there(finished: Finished) -> None:
    for picture in finished.work.rglob("loss.png"):
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    assert (finished.run / "artifacts" / "loss.png").is_file()
    sample = (finished.work / "quickstart" / "sample.txt").read_text(encoding="utf-8")
    assert sample.startswith("def ") and len(sample) > 20
    assert sample.strip() in finished.output


@pytest.mark.slow
def test_mlflow_has_all_of_it(finished: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.run / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(ids)
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert (params["parallel.tensor"], params["run.steps"]) == ("2", str(STEPS))
    assert params["data.train.0.path"] == "quickstart/shards"

    curve = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss/loss")}
    assert curve == {line["step"]: line["loss"] for line in finished.journal if "loss" in line}
    assert sorted(curve) == list(range(1, STEPS + 1))
    for name in (
        "loss/validation_loss",
        "optimizer/lr",
        "optimizer/grad_norm",
        "throughput/tokens_per_second",
    ):
        assert client.get_metric_history(run.info.run_id, name), name
    [score] = client.get_metric_history(run.info.run_id, "scores/token_perplexity")
    assert (score.step, score.value) == (STEPS, finished.metrics["token_perplexity"])
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"loss.png", "sample.txt", "config.yaml", "config.resolved.yaml"} <= artifacts
    evaluation = {item.path for item in client.list_artifacts(run.info.run_id, f"step-{STEPS:08d}")}
    assert any(re.search(r"perplexity-\w+\.json$", path) for path in evaluation)


@pytest.mark.slow
def test_a_second_one_does_not_touch_the_first(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.work)
    before = sorted(finished.work.rglob("*"))
    with pytest.raises(UserError, match=r"--out quickstart: is not empty.* --out quickstart-2"):
        quickstart_command("quickstart")
    assert sorted(finished.work.rglob("*")) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "is a file"),
        ("file/below", "cannot be made: Not a directory"),
        ("/proc/nowhere", "cannot be made: "),
        (".", "is not empty, .* --out quickstart-2"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(
    out: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match=f"--out {out}: {message}") as caught:
        quickstart_command(out)
    assert caught.value.exit_code == 2


def test_a_stage_that_fails_ends_it_with_the_same_exit_code(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(UserError, match="exit code 2") as caught:
        Runner(tmp_path, Console()).run("data", "verify", str(tmp_path / "shards"))
    assert caught.value.exit_code == 2
    output = capfd.readouterr()
    assert "$ pretrain data verify " in output.out
    assert "not a shard directory" in output.err
