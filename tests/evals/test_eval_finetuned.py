"""`pretrain eval` of fine-tuned models, in suites too: the trainer's numbers, on other layouts as well."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_runs import bert_run
from chat_runs import PAIRS, gpt_run, write_pairs
from ranks import run_ranks
from typer.testing import CliRunner

from evals.config import one_file
from pretrain.cli import app
from pretrain.errors import UserError

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("suite_worker.py")
KINDS = {"chat": "gpt-chat", "texts": "bert-classifier", "words": "bert-tagger"}
SENTENCES = [
    (
        f"the film of {'Ada' if number % 2 else 'Bob'} is {'good' if number % 3 else 'poor'}",
        str(number % 3 > 0),
    )
    for number in range(24)
]


def write_examples(folder: Path, name: str, count: int) -> None:
    """Labelled texts and words, of which the first `count` go into the file."""
    rows = [f"{text}\t{label}\n" for text, label in SENTENCES[:count]]
    (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    tagged = [
        "".join(f"{word} {'B-PER' if word in ('Ada', 'Bob') else 'O'}\n" for word in text.split())
        for text, _ in SENTENCES[:count]
    ]
    (folder / f"{name}.conll").write_text("\n".join(tagged))


def tree(folder: Path, name: str) -> dict[str, Any]:
    end = {"chat": "jsonl", "texts": "tsv", "words": "conll"}[name]
    columns = {"text": "sentence", "label": "label"} if name == "texts" else {}
    return {
        "run": {"dir": str(folder / name), "steps": 4},
        "model": {"kind": KINDS[name], "init_from": str(folder / ("gpt" if name == "chat" else "bert"))},
        "batch": {"global_size": 4, "micro_size": 2},
        "optimizer": {"lr": 1e-2},
        "data": {"train": str(folder / f"train.{end}"), "validation": str(folder / f"dev.{end}"), **columns},
        "checkpoint": {"every": 2},
        "eval": {"every": 2},
        "tracking": {"enabled": False},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, scored by one process; copies of them, scored by two."""
    folder = tmp_path_factory.mktemp("finetuned")
    gpt_run(folder / "gpt", 0.3)
    bert_run(folder / "bert", [text for text, _ in SENTENCES])
    write_pairs(folder / "train.jsonl", PAIRS * 3)
    write_pairs(folder / "dev.jsonl", [*PAIRS[:3], ("a long one?", "yes, " * 9)])
    for name, count in (("train", 24), ("dev", 7)):
        write_examples(folder, name, count)
    for name in KINDS:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree(folder, name)))
    tasks = [{"task": "answers"}, {"task": "answers", "name": "train", "data": str(folder / "train.jsonl")}]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    orders: dict[str, Any] = {name: order(folder, name) for name in KINDS}
    orders["harness"] = {**orders["chat"], "which": "newest", "tasks": ["example_choice"], "suite": None}
    rank(folder, 1, [str(folder / f"{name}.yaml") for name in KINDS], orders)
    for name in KINDS:
        shutil.copytree(folder / name, folder / f"two-{name}", ignore=shutil.ignore_patterns("artifacts"))
    layouts = {"chat": ["parallel.pipeline=2"], "texts": ["parallel.tensor=2"], "words": []}
    rank(folder, 2, [], {name: order(folder, name, "two-", layouts[name]) for name in KINDS})
    return folder


def order(folder: Path, name: str, prefix: str = "", overrides: list[str] | None = None) -> dict[str, Any]:
    suite = str(folder / "suite.yaml") if name == "chat" else None
    run = str(folder / f"{prefix}{name}")
    return {"checkpoint": run, "which": "all", "suite": suite, "overrides": overrides or []}


def rank(folder: Path, processes: int, train: list[str], orders: dict[str, Any]) -> None:
    output = str(folder / f"answers-{processes}.json")
    asked = {"train": train, "orders": orders, "output": output, "tracked": False}
    done = run_ranks(WORKER, processes, asked)
    assert done.returncode == 0, done.stderr


def answers(folder: Path, processes: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"answers-{processes}.json").read_text())
    return found


@pytest.mark.parametrize("name", KINDS)
def test_every_checkpoint_has_the_trainers_numbers_on_any_layout(folder: Path, name: str) -> None:
    one, two = answers(folder, 1)[name], answers(folder, 2)[name]
    journal = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    validated = {line["step"]: line for line in journal if "validation_loss" in line}
    assert [line[1] for line in one if line[0] is None] == [2, 4] == sorted(validated)
    assert one[0][2]["validation_loss"] != one[-1][2]["validation_loss"]
    accuracy = "answer_accuracy" if name == "chat" else "accuracy"
    for (label, step, mine, spec), (_, _, theirs, _) in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-7)
        assert set(mine) <= set(spec["definitions"])
        if label is None:
            assert mine["validation_loss"] == pytest.approx(validated[step]["validation_loss"], abs=1e-6)
            assert mine[accuracy] == pytest.approx(validated[step]["validation_accuracy"], abs=1e-9)
            if name != "chat":
                assert mine["f1"] == pytest.approx(validated[step]["validation_f1"], abs=1e-9)


def test_a_classifier_says_what_it_is_for(folder: Path) -> None:
    with pytest.raises(UserError, match=r"this command is for model\.kind gpt or .*has bert-classifier"):
        CliRunner().invoke(
            app, ["generate", str(folder / "texts"), "--prompt", "the film"], catch_exceptions=False
        )


def test_other_conversations_have_other_numbers(folder: Path) -> None:
    own, other, *_ = answers(folder, 1)["chat"]
    assert (own[2]["conversations"], other[2]["conversations"]) == (4, 12)
    assert own[2]["answer_perplexity"] != pytest.approx(other[2]["answer_perplexity"], rel=1e-3)
    assert own[3]["chat_template_sha256"] == other[3]["chat_template_sha256"]


def test_the_harness_scores_a_model_of_conversations(folder: Path) -> None:
    [[_, step, metrics, _]] = answers(folder, 1)["harness"]
    assert step == 4 and 0 <= metrics["example_choice/acc"] <= 1


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("chat", ["--stride", "4"], "--stride 4 has no effect on a gpt-chat"),
        ("texts", ["--stride", "4"], "--stride 4 has no effect on a bert-classifier"),
        ("chat", ["data.train=x.jsonl"], "data.train has no effect on an evaluation"),
        (
            "chat",
            ["--data", "dev.jsonl", "data.validation=x.jsonl"],
            "data.validation has no effect with --data",
        ),
        ("chat", ["--data", "none.jsonl"], "none.jsonl"),
        ("words", ["--data", "none.conll"], "none.conll"),
    ],
)
def test_what_has_no_effect_or_is_not_there_is_refused(
    folder: Path, name: str, arguments: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        CliRunner().invoke(app, ["eval", str(folder / name), *arguments], catch_exceptions=False)


def test_one_file_is_scored() -> None:
    assert (one_file(["a"], "b"), one_file([], "b")) == ("a", "b")
    with pytest.raises(UserError, match="--data b: one file at a time"):
        one_file(["a", "b"], None)
    with pytest.raises(UserError, match=r"no data\.validation; name a file to score with --data"):
        one_file([], None)
