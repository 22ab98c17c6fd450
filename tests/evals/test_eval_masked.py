"""Evaluation of a BERT: formulas, the same numbers on every layout, and those of the trainer's validation."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from bert_shards import easy_bert_shards
from ranks import run_pretrain, run_ranks

from evals.families.bert import DEFINITIONS, masked_metrics
from pretrain.bert.spec import BertSums
from pretrain.errors import HealthError

WORKER = Path(__file__).with_name("eval_worker.py")
TOTALS = BertSums(
    mlm_nll=300.0,
    mlm_squares=1300.0,
    chosen=100,
    chosen_right=30,
    masked=80,
    masked_nll=280.0,
    masked_right=16,
    masked_frequent=4,
    nsp_nll=6.0,
    pairs=10,
    pairs_right=8,
    pairs_random=4,
)
LAYOUTS = {
    "TP2": ["parallel.tensor=2"],
    "PP2": ["parallel.pipeline=2"],
    "CP2": ["parallel.context=2"],
    "DP2": ["batch.micro_size=3"],
}


def test_metrics_by_hand() -> None:
    found = masked_metrics(TOTALS)
    assert found == pytest.approx(
        {
            "mlm_accuracy": 0.2,
            "mlm_accuracy_error": math.sqrt(0.2 * 0.8 / 80),
            "mlm_baseline_accuracy": 0.05,
            "mlm_chosen_accuracy": 0.3,
            "mlm_loss": 3.0,
            "mlm_loss_error": math.sqrt((13 - 9) / 100),
            "mlm_pseudo_perplexity": math.exp(3.5),
            "nsp_accuracy": 0.8,
            "nsp_accuracy_error": math.sqrt(0.8 * 0.2 / 10),
            "nsp_baseline_accuracy": 0.6,
            "nsp_loss": 0.6,
            "validation_loss": 3.6,
            "chosen_tokens": 100,
            "masked_tokens": 80,
            "pairs": 10,
        }
    )
    assert list(found) == [name for name in DEFINITIONS if name in found]


def test_without_pairs_there_is_nothing_about_them() -> None:
    alone = BertSums(
        *[300.0, 1300.0, 100, 30, 80, 280.0, 16, 4], nsp_nll=0, pairs=0, pairs_right=0, pairs_random=0
    )
    assert not any(name.startswith("nsp") for name in masked_metrics(alone))
    assert masked_metrics(alone)["validation_loss"] == 3.0


def test_numbers_that_are_not_finite_are_no_result() -> None:
    broken = BertSums(
        *[math.nan, 0, 100, 30, 80, 280.0, 16, 4], nsp_nll=0, pairs=0, pairs_right=0, pairs_random=0
    )
    with pytest.raises(HealthError, match="not finite"):
        masked_metrics(broken)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real command, of 12 steps."""
    folder = tmp_path_factory.mktemp("masked")
    shards = easy_bert_shards(folder)
    (folder / "bert.yaml").write_text(
        f"""
run: {{dir: {folder}/run, steps: 12, seed: 7}}
model: {{kind: bert, num_layers: 2, hidden_size: 32, num_attention_heads: 4}}
batch: {{global_size: 8, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-2}}
data: {{train: {shards}, validation_fraction: 0.1}}
eval: {{max_windows: 41}}
tracking: {{enabled: false}}
"""
    )
    done = run_pretrain("train", folder / "bert.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
def test_any_layout_gives_the_numbers_of_the_trainer(run: Path, tmp_path: Path) -> None:
    """41 samples, so that the last micro-batch has rows that are there for the shape alone."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (validated,) = [line for line in lines if "validation_loss" in line]
    answers: dict[str, Any] = {}
    runs = {1: {"one": {}}, 2: {name: {"overrides": keys} for name, keys in LAYOUTS.items()}}
    for size, asked in runs.items():
        argument = {"checkpoint": str(run), "output": str(tmp_path / "answers.json"), "runs": asked}
        done = run_ranks(WORKER, size, argument, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        answers |= json.loads((tmp_path / "answers.json").read_text())
    one = answers["one"]["metrics"]
    # Another program, whose weights lie elsewhere in memory: fp32 sums may round otherwise, by 6e-8 each.
    assert one["validation_loss"] == pytest.approx(validated["validation_loss"], rel=1e-6)
    for name in ("mlm_loss", "mlm_accuracy", "mlm_baseline_accuracy", "nsp_loss", "nsp_accuracy"):
        assert one[name] == pytest.approx(validated[f"validation_{name}"], rel=1e-6)
    assert one["pairs"] == 41 == answers["one"]["spec"]["samples"]
    assert 0.7 < one["masked_tokens"] / one["chosen_tokens"] < 0.9
    for name in LAYOUTS:
        assert answers[name]["metrics"] == pytest.approx(one, abs=1e-5), name


@pytest.mark.slow
def test_what_a_bert_cannot_do_is_refused(run: Path) -> None:
    for command, said in (
        (
            ["generate", str(run), "--prompt", "a"],
            "is for model.kind gpt or gpt-chat or gan or rnn; this config has bert",
        ),
        (["eval", str(run), "--stride", "8"], "--stride 8 has no effect on a bert"),
    ):
        done = run_pretrain(*command)
        assert done.returncode == 2
        assert said in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
