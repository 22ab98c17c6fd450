"""Tasks of lm-evaluation-harness on our checkpoints, against its own Hugging Face backend; perplexity too."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ranks import run_ranks
from text_shards import build_shards
from typer.testing import CliRunner

from data_tools.train_tokenizer import train_tokenizer
from pretrain.cli import app

WORKER = Path(__file__).with_name("harness_worker.py")
LENGTH = 48
TEXTS = [
    f"{number} green bottles hang on the {'high ' * (number % 4)}wall. If one falls, {number - 1} are left."
    for number in range(10, 60)
]
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "choice": [
        {
            "q": f"{number} green bottles hang on",
            "options": ["a tree", "the wall", "the high wall"],
            "a": number % 3,
        }
        for number in range(10, 17)
    ],
    "last": [
        {"text": text}
        for text in (
            *(text.rpartition(" are")[0] for text in TEXTS[3:8]),
            " ".join(TEXTS[:4]).removesuffix("."),
        )
    ],
    "generate": [{"q": q, "a": "x"} for q in ("10 green bottles hang", " ".join(TEXTS[:3]), "If one")],
    "rolling": [{"text": "".join(TEXTS[:5])}, {"text": "If one falls"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "options",
        "doc_to_target": "a",
        "num_fewshot": 1,
        "fewshot_split": "test",
        "metric_list": [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")],
    },
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' ' + text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity"},
            {"metric": "acc", "aggregation": "mean"},
        ],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "generation_kwargs": {"until": [".", "left"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


def write_task(folder: Path, name: str) -> str:
    """A task file with its data beside it."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(example) + "\n" for example in EXAMPLES[name])
    (folder / f"{name}.jsonl").write_text(lines)
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}}
    tree = {"task": name, "test_split": "test", **data, **TASKS[name]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / f"{name}.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, what it was exported to, tasks, and the answers of one rank and of two."""
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = train_tokenizer(TEXTS, "bpe", 320)
    build_shards(folder / "shards", TEXTS * 4, tokenizer)
    build_shards(folder / "held-out", TEXTS[::7], tokenizer)
    config = {
        "run": {"dir": str(folder / "run"), "steps": 60},
        "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
        "batch": {"global_size": 6, "micro_size": 3, "sequence_length": LENGTH},
        "optimizer": {"lr": 1e-2},
        "data": {"train": str(folder / "shards")},
        "tracking": {"enabled": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    asked = {
        "config": str(folder / "config.yaml"),
        "run": str(folder / "run"),
        "exported": str(folder / "exported"),
        "tasks": [write_task(folder / "tasks", name) for name in TASKS],
        "strides": {f"stride {stride}": [str(folder / "held-out"), stride] for stride in (LENGTH, 7)},
    }
    two = {"TP2": ["parallel.tensor=2"], "PP2": ["parallel.pipeline=2"], "DP2": []}
    for processes, layouts in ((1, {"one": []}), (2, two)):
        output = str(folder / f"answers-{processes}.json")
        done = run_ranks(WORKER, processes, {**asked, "layouts": layouts, "output": output})
        assert done.returncode == 0, done.stderr
        asked["config"] = None
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for processes in (2, 1):
        read = json.loads((folder / f"answers-{processes}.json").read_text())
        found |= {name: value for name, value in read.items() if not name.startswith("stride")}
        found |= {f"{name}, {processes}": value for name, value in read.items() if name.startswith("stride")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one", "TP2", "PP2", "DP2"])
def test_the_harness_sees_what_it_sees_in_the_exported_model(answers: dict[str, Any], layout: str) -> None:
    ours, theirs = answers[layout], answers["theirs"]
    for task in TASKS:
        mine, other = ours["answers"][task], theirs["answers"][task]
        assert len(mine) == len(other)
        if task == "generate":
            assert mine == other
            assert all("." not in text and "left" not in text for text in mine)
        elif task == "rolling":
            assert mine == pytest.approx(other, abs=1e-4)
        else:
            assert [value for value, _ in mine] == pytest.approx([value for value, _ in other], abs=1e-4)
            assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
        for key, value in theirs["metrics"][task].items():
            name, comma, _ = key.partition(",")
            if comma and not isinstance(value, str):
                near = pytest.approx(value, rel=1e-2 if "stderr" in name else 1e-5)  # of nearly equal values
                assert ours["metrics"][f"{task}/{name}"] == near, key
    for metric in ("last/acc", "choice/acc"):
        assert 0 < ours["metrics"][metric] < 1  # it tells right from wrong
    assert ours["spec"]["contexts_cut"] > 0
    assert any(ours["answers"]["generate"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stride", [LENGTH, 7])
def test_perplexity_of_sliding_windows_is_that_of_transformers(
    answers: dict[str, Any], stride: int, processes: int
) -> None:
    expected = answers[f"stride {stride} by transformers, 1"]
    assert answers[f"stride {stride}, {processes}"] == pytest.approx(expected, rel=1e-5)
    assert answers["stride 7, 1"] != pytest.approx(answers[f"stride {LENGTH}, 1"], rel=3e-5)


@pytest.mark.slow
def test_a_result_says_all_that_decides_it(answers: dict[str, Any]) -> None:
    one, two = answers["one"]["spec"], answers["TP2"]["spec"]
    assert one["versions"]["lm_eval"] == "0.4.13"
    assert one["checkpoint_fingerprint"] == two["checkpoint_fingerprint"]
    assert one["tasks"] == two["tasks"]
    task = one["tasks"]["choice"]
    assert (task["requests"], task["fewshot"]) == (21, 1)
    assert len({each["requests_fingerprint"] for each in one["tasks"].values()}) == len(TASKS)
    metrics = answers["one"]["metrics"]
    assert metrics["choice/documents"] == 7
    assert (
        {"choice/acc_stderr", "last/perplexity_stderr"}
        <= set(metrics)
        == set(one["definitions"]) & set(metrics)
    )


@pytest.mark.slow
def test_the_command_keeps_its_result(folder: Path) -> None:
    run, choice = str(folder / "run"), str(folder / "tasks/choice.yaml")
    output = folder / "result.json"
    command = ["eval", run, "--tasks", choice, "--json", str(output)]
    first = CliRunner().invoke(app, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    assert "choice/acc" in first.stdout and "scored before" not in first.stdout
    result = json.loads(output.read_text())
    assert result["spec"]["task"] == "harness"
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "scored before" in again.stdout
    [line] = (folder / "run/evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["choice/acc"] == result["metrics"]["choice/acc"]
