"""Fine-tuning on real ranks: the same numbers on every layout, a task that is learnt, and answers on disk."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from config_files import REPOSITORY
from ranks import run_pretrain, run_ranks

from data_tools.train_tokenizer import train_tokenizer

WORKER = Path(__file__).with_name("finetune_worker.py")
CONFIGS = REPOSITORY / "configs" / "bert"
GOOD = ["fine", "good", "lovely", "great"]
BAD = ["poor", "bad", "awful", "dull"]
NAMES = ["Ada", "Bob", "Cleo"]
STEPS = 6
LAYOUTS = {
    "TP2+SP": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
    "PP2": (2, ["parallel.pipeline=2", "batch.micro_size=4"]),
    "DP2": (2, ["parallel.distributed_optimizer=true", "batch.micro_size=2"]),
}

pytestmark = pytest.mark.slow


def sentences(count: int) -> list[tuple[str, str]]:
    """Texts with a judgement in them, and what it is."""
    found = []
    for index in range(count):
        words, label = (GOOD, "1") if index * 7 % 3 else (BAD, "0")
        tail = " and so on" * (index % 4)
        found.append((f"the film of {NAMES[index % 3]} is {words[index % 4]}{tail}", label))
    return found


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT's run whose weights are as they were drawn."""
    folder = tmp_path_factory.mktemp("bert")
    train_tokenizer([text for text, _ in sentences(40)], "char", bert=True).save(folder / "tokenizer")
    overrides = ["model.position_embedding=rotary", "model.linear_init_std=0.1", "batch.sequence_length=64"]
    asked = {"make": str(folder), "config": str(CONFIGS / "tiny.yaml"), "overrides": overrides}
    done = run_ranks(WORKER, 1, asked)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    rows = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in sentences(120))]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.tsv").write_text("\n".join(rows[:1] + rows[-31:]) + "\n")
    tagged = "\n\n".join(
        "\n".join(f"{word} {'B-PER' if word in NAMES else 'O'}" for word in text.split())
        for text, _ in sentences(60)
    )
    (folder / "train.conll").write_text(tagged + "\n")
    (folder / "dev.conll").write_text("\n\n".join(tagged.split("\n\n")[:11]) + "\n")
    return folder


def overrides_for(bert: Path, files: Path, run: Path, kind: str = "classification") -> list[str]:
    end = "tsv" if kind == "classification" else "conll"
    return [
        f"model.init_from={bert}",
        f"run.dir={run}",
        f"data.train={files}/train.{end}",
        f"data.validation={files}/dev.{end}",
        "batch.global_size=8",
        "batch.micro_size=8",
        "optimizer.lr=5e-3",
        "tracking.enabled=false",
    ]


def curves(config: Path, processes: int, runs: dict[str, list[str]], output: Path) -> dict[str, Any]:
    asked = {"output": str(output), "steps": STEPS, "config": str(config), "runs": runs}
    done = run_ranks(WORKER, processes, asked)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_every_layout_gives_the_numbers_of_one_process(
    bert: Path, files: Path, tmp_path: Path, kind: str
) -> None:
    config = CONFIGS / f"finetune-{kind}.yaml"
    base = [
        *overrides_for(bert, files, tmp_path / "run", kind),
        "schedule.warmup_steps=2",
        "model.dropout=0.0",
    ]
    (one,) = curves(config, 1, {"one": base}, tmp_path / "one.json").values()
    answers = (tmp_path / "run" / "predictions.jsonl").read_text()
    runs = {name: [*base, *changes] for name, (_, changes) in LAYOUTS.items()}
    runs = {name: [text for text in run if not _overridden(text, run)] for name, run in runs.items()}
    for name, found in curves(config, 2, runs, tmp_path / "many.json").items():
        for key in ("losses", "norms"):
            assert found[key] == pytest.approx(one[key], abs=1e-5), name
        assert found["validation"] == pytest.approx(one["validation"], abs=1e-5), name
    assert (tmp_path / "run" / "predictions.jsonl").read_text() == answers


def _overridden(text: str, run: list[str]) -> bool:
    """Whether a later override of the same key follows."""
    key = text.partition("=")[0]
    return [other for other in run if other.startswith(f"{key}=")][-1] is not text


def train(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run_pretrain("train", CONFIGS / name, *overrides)


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_a_task_is_learnt_and_the_answers_are_on_disk(
    bert: Path, files: Path, tmp_path: Path, kind: str
) -> None:
    run = tmp_path / "run"
    more = ["run.steps=80", "schedule.warmup_steps=8", "checkpoint.every=40"]
    done = train(f"finetune-{kind}.yaml", *overrides_for(bert, files, run, kind), *more)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "validation_accuracy" in line)
    assert last["validation_accuracy"] > 0.95 > last["validation_baseline_accuracy"]
    assert last["validation_f1"] > 0.9
    answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == (31 if kind == "classification" else 11)
    key = "prediction" if kind == "classification" else "predictions"
    assert answers[0][key] == answers[0]["label" + key.removeprefix("prediction")]
    again = train(f"finetune-{kind}.yaml", *overrides_for(bert, files, run, kind), *more)
    assert again.returncode == 0, again.stderr
    assert f"resumed from {run}/checkpoints/step-00000080" in again.stderr + again.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.label=lable", "train.tsv: has no column 'lable' (did you mean 'label'?)"),
        ("data.labels=['0','1','2']", "train.tsv: class '2' of data.labels is empty: it has no example"),
        ("data.validation={files}/strange.tsv", "strange.tsv:2: label '7' does not occur in the training"),
        ("data.train={files}/gone.tsv", "gone.tsv: cannot be read: No such file"),
        ("model.init_from={files}", "holds no run"),
    ],
)
def test_bad_input_ends_with_one_message(
    bert: Path, files: Path, tmp_path: Path, change: str, said: str
) -> None:
    (files / "strange.tsv").write_text("sentence\tlabel\nit is fine\t7\n")
    key, _, value = change.format(files=files).partition("=")
    given = [text for text in overrides_for(bert, files, tmp_path / "run") if not text.startswith(f"{key}=")]
    done = train("finetune-classification.yaml", *given, f"{key}={value}")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_check_opens_the_files(bert: Path, files: Path, tmp_path: Path, kind: str) -> None:
    command = ["check", str(CONFIGS / f"finetune-{kind}.yaml")]
    command += overrides_for(bert, files, tmp_path / "run", kind)
    done = run_pretrain(*command)
    assert done.returncode == 0, done.stderr
    classes, examples = ("0, 1", 120) if kind == "classification" else ("B-PER, O", 60)
    assert f"training examples  {examples};" in done.stdout
    assert any(line.split(maxsplit=1) == ["classes", classes] for line in done.stdout.splitlines())
    wrong = [word.replace("/train.", "/nowhere.") for word in command]
    refused = run_pretrain(*wrong)
    assert refused.returncode == 2
    assert f"{files}/nowhere." in refused.stderr
