"""`pretrain eval` on a run that two tensor parallel ranks trained: the trainer's number, on every layout."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from ranks import run_pretrain, run_ranks
from text_shards import build_shards

from data_tools.reader import ShardReader

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("eval_worker.py")
VPP = ["parallel.pipeline=2", "parallel.virtual_pipeline=2"]
STEPS = 4


def documents(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    words = ["the ", "quick ", "brown ", "fox ", "jumps\n", "über "]
    return ["".join(draw.choices(words, k=draw.randint(5, 150))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and a run that was trained on them with validation at its end."""
    folder = tmp_path_factory.mktemp("eval")
    build_shards(folder / "shards", documents(1, 30), block_tokens=2000)
    build_shards(folder / "other", documents(2, 5), block_tokens=500)
    config = {
        "run": {"dir": str(folder / "run"), "steps": STEPS},
        "model": {"kind": "gpt", "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
        "batch": {"global_size": 8, "micro_size": 2, "sequence_length": 32},
        "parallel": {"tensor": 2},
        "optimizer": {"lr": 0.01},
        "data": {"train": str(folder / "shards"), "validation_fraction": 0.1},
        "tracking": {"enabled": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    trained = run_pretrain("train", str(folder / "config.yaml"), "--processes", "2")
    assert trained.returncode == 0, trained.stderr
    return folder


def worker(folder: Path, processes: int, **argument: Any) -> dict[str, Any]:
    output = folder / f"answers-{processes}.json"
    argument |= {"checkpoint": str(folder / "run"), "output": str(output)}
    done = run_ranks(WORKER, processes, argument)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(output.read_text())
    return answers


def trainers_loss(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    (loss,) = (line["validation_loss"] for line in lines if "validation_loss" in line)
    return float(loss)


def test_command_gives_the_trainers_number_on_another_layout(folder: Path) -> None:
    answer = run_pretrain(
        "eval", str(folder / "run"), "--processes", "2", "--json", str(folder / "result.json")
    )
    assert answer.returncode == 0, answer.stderr
    result = json.loads((folder / "result.json").read_text())
    metrics, spec = result["metrics"], result["spec"]
    expected = math.exp(trainers_loss(folder))
    assert metrics["token_perplexity"] == pytest.approx(expected, rel=1e-5)
    assert (result["step"], spec["layout"], spec["stride"]) == (STEPS, "DP2", 32)
    assert result["checkpoint"] == str(folder / f"run/checkpoints/step-{STEPS:08d}")
    for name in metrics:
        assert name in answer.stdout and spec["definitions"][name]

    reader = ShardReader(folder / "shards")
    first, last = spec["data"][0]["scored"]
    text = bytes(b for b in reader.read(first, last).tolist() if b < 256)
    nll = metrics["validation_loss"] * metrics["tokens_scored"]
    assert (metrics["tokens_scored"], metrics["bytes"]) == (last - first, len(text))
    assert metrics["bits_per_byte"] == pytest.approx(nll / math.log(2) / len(text))

    (entry,) = (json.loads(line) for line in (folder / "run/evaluations.jsonl").read_text().splitlines())
    assert entry["step"] == STEPS
    assert entry["token_perplexity"] == metrics["token_perplexity"]
    assert "validation_loss" not in entry
    (artifact,) = (folder / "run/artifacts").rglob("perplexity-*.json")
    assert json.loads(artifact.read_text()) == result


def test_every_layout_gives_the_same_number(folder: Path) -> None:
    sp = ["parallel.tensor=2", "parallel.sequence=true"]
    layouts = {
        "TP2 + SP": sp,
        "PP2": ["parallel.pipeline=2", "batch.micro_size=3"],
        "PP2 x VPP2": VPP,
        "CP2": ["parallel.context=2"],
        "DP2": ["batch.micro_size=5"],
    }
    two = worker(folder, 2, runs={name: {"overrides": overrides} for name, overrides in layouts.items()})
    one = worker(
        folder,
        1,
        runs={
            "one process": {},
            "strided": {"stride": 5, "overrides": ["eval.max_windows=3"]},
            "other": {"data": [str(folder / "other")]},
        },
        brute={"stride": 5, "windows": 3},
    )
    loss = trainers_loss(folder)
    for name, answer in [*two.items(), ("one process", one["one process"])]:
        assert answer["spec"]["layout"] == name
        assert answer["metrics"]["validation_loss"] == pytest.approx(loss, rel=1e-6)
        assert answer["metrics"]["tokens_scored"] == one["one process"]["metrics"]["tokens_scored"]

    assert one["strided"]["metrics"]["tokens_scored"] == 3 * 32
    assert one["strided"]["spec"]["stride"] == 5
    assert one["brute"]["labels"] == 3 * 32
    assert one["strided"]["metrics"]["validation_loss"] == pytest.approx(one["brute"]["nll"] / 96, rel=1e-6)
    other = ShardReader(folder / "other")
    assert one["other"]["metrics"]["tokens_scored"] == len(other) - 1
    assert one["other"]["metrics"]["bytes"] == other.index.bytes - 1  # the first byte is not scored
    assert one["other"]["spec"]["data"][0]["fingerprint"] == other.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing-run"], "missing-run: does not exist"),
        (["RUN", "--data", "nowhere"], "nowhere: there is no such directory"),
    ],
)
def test_wrong_arguments_end_in_one_message(folder: Path, arguments: list[str], message: str) -> None:
    answer = run_pretrain("eval", *(str(folder / "run") if part == "RUN" else part for part in arguments))
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
