"""Suites over every checkpoint of a GPT, a BERT and a GAN: the same on one and two ranks, once in MLflow."""

import json
from pathlib import Path

import pytest
from config_files import REPOSITORY
from mlflow_server import Server
from typer.testing import CliRunner

from evals.suite import load_suite
from pretrain.cli import app
from pretrain.config.node import ConfigError

STEPS = (1, 2, 3, 4, 5)
NAMES = {"gpt": "other/token_perplexity", "bert": "few/mlm_accuracy", "gan": "fd_judge"}


def histories(server: Server, run: Path, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    [sent] = json.loads((run / "tracking.json").read_text())["servers"]
    history = MlflowClient(server.uri).get_metric_history(sent["mlflow_run"], f"scores/{name}")
    return sorted((each.step, each.value) for each in history)


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_the_same_numbers_on_two_ranks_each_once_in_mlflow(
    scored: Path, mlflow_server: Server, family: str
) -> None:
    one, two = (json.loads((scored / f"answers-{size}.json").read_text())[family] for size in (1, 2))
    entries = 1 if family == "gan" else 2
    assert [line[:2] for line in one] == [line[:2] for line in two]
    assert [line[1] for line in one] == [step for step in STEPS for _ in range(entries)]
    for (_, _, mine, spec), (_, _, theirs, other) in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-8)
        assert (spec["processes"], other["processes"]) == (1, 2)
        assert spec["checkpoint_fingerprint"] == other["checkpoint_fingerprint"]
        assert all(name in spec["definitions"] for name in mine)
    expected: dict[str, list[float]] = {}
    for prefix, _, metrics, _ in one:
        for name, value in metrics.items():
            if prefix or name != "validation_loss":  # the trainer has a curve of that name
                expected.setdefault(f"{prefix}/{name}" if prefix else name, []).append(value)
    assert NAMES[family] in expected
    for name, values in expected.items():
        for run in (family, f"two-{family}"):
            found = histories(mlflow_server, scored / run, name)
            assert [step for step, _ in found] == list(STEPS), (run, name)
            assert [value for _, value in found] == pytest.approx(values, rel=1e-5, abs=1e-8), (run, name)


@pytest.mark.slow
def test_run_again_nothing_is_computed_or_added(scored: Path, mlflow_server: Server) -> None:
    before = {name: (scored / name / "evaluations.jsonl").read_bytes() for name in NAMES}
    (scored / "gpt/evaluations.jsonl").write_bytes(b"")  # as if killed between the result and its line
    wanted = {name: histories(mlflow_server, scored / name, metric) for name, metric in NAMES.items()}
    command = ["eval", str(scored / "gpt"), "--suite", str(scored / "gpt-suite.yaml"), "--all"]
    said = CliRunner().invoke(app, [*command, "--json", str(scored / "all.json")], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert said.stdout.count("(scored before)") == 10
    lines = [json.loads(line) for line in (scored / "gpt/evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step for step in STEPS for _ in range(2)]
    assert len(before["gpt"].splitlines()) == len(lines)
    assert histories(mlflow_server, scored / "gpt", NAMES["gpt"]) == wanted["gpt"]
    results = json.loads((scored / "all.json").read_text())["results"]
    assert [each["name"] for each in results] == [None, "other"] * 5


@pytest.mark.slow
def test_a_suite_for_another_kind_is_refused(scored: Path) -> None:
    refused = json.loads((scored / "answers-1.json").read_text())["wrong"]["refused"]
    assert "task 1, masked, is for model.kind bert, not gpt; for gpt there is perplexity" in refused


@pytest.mark.slow
def test_runs_side_by_side(scored: Path) -> None:
    runs = [str(scored / "gpt"), str(scored / "two-gpt"), str(scored / "bert")]
    said = CliRunner().invoke(
        app, ["compare", *runs, "--plot", str(scored / "c.png")], catch_exceptions=False
    )
    assert said.exit_code == 0, said.output
    rows = {line.split()[0]: line.split()[1:] for line in said.stdout.splitlines() if line.strip()}
    assert rows["gpt"] == ["two-gpt", "bert"]
    assert rows["step"] == ["5", "5", "5"]
    assert rows["model.kind"] == ["gpt", "gpt", "bert"]
    assert rows["mlm_accuracy"][:2] == ["-", "-"]
    assert rows["other/token_perplexity"][2] == "-"
    assert (scored / "c.png").read_bytes().startswith(b"\x89PNG")


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
