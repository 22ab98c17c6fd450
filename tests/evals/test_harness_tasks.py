"""Task files of lm-evaluation-harness: what is read of them, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml
from config_files import REPOSITORY
from typer.testing import CliRunner

from evals.harness.definition import find_definitions
from evals.harness.library import confined, require_harness
from evals.suite import load_suite, named_tasks
from pretrain.cli import app
from pretrain.config.node import ConfigError
from pretrain.errors import UserError

ROW = {"q": "one two", "options": ["three", "four"], "a": 0}
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: options
doc_to_target: a
metric_list: [{metric: acc, aggregation: mean}]
"""


def build(path: Path) -> object:
    from evals.harness.tasks import build_task

    require_harness()
    with confined(show=False):
        return [build_task(each) for each in find_definitions([str(path)], None)]


def write(folder: Path, text: str = TASK, rows: str = json.dumps(ROW)) -> Path:
    (folder / "rows.jsonl").write_text(rows)
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (TASK, "", r"mine\.yaml: the file is empty"),
        (TASK, "# nothing yet\n", r"mine\.yaml: the file is empty"),
        (TASK, "[1, 2]", r"mine\.yaml: must be a mapping"),
        ("task: mine", "task: [mine", r"mine\.yaml:3: "),
        ("task: mine", "", r"has no key 'task'"),
        ("task: mine", "task: a/b", r"'a/b' is part of names of metrics"),
        ("task: mine", "task: mine\ntask: yours", r"mine\.yaml:3: task: stands twice"),
        ("doc_to_text:", "doc_to_txt:", r"unknown key 'doc_to_txt' \(did you mean 'doc_to_text'\?\)"),
        ("multiple_choice", "multiple_choices", r"'multiple_choices' .*did you mean 'multiple_choice'"),
        (
            '"{{q}}"',
            "!function utils.text",
            r"mine\.yaml:7: !function utils\.text runs code; only",
        ),
        ('"{{q}}"', "!!python/name:os.system", r"mine\.yaml:7: could not determine a constructor"),
        (
            '"{{q}}"',
            '"{{ q.__class__.__mro__ }}"',
            r"rows\.jsonl:1: the harness cannot use it: SecurityError",
        ),
        ('"{{q}}"', '"{{ q"', r"doc_to_text: is no template"),
        ('"{{q}}"', '"{{ query }}"', r"rows\.jsonl:1: has no field 'query' .*doc_to_text of .*mine\.yaml"),
        ("doc_to_target: a", "doc_to_target: ans", r"rows\.jsonl:1: has no field 'ans'.*doc_to_target"),
        (
            "doc_to_choice: options",
            "doc_to_choice: option",
            r"did you mean 'options'\?\), which",
        ),
        ("dataset_path: json", "dataset_path: EleutherAI/lambada_openai", r"hub, and nothing is downloaded"),
        ("rows.jsonl", "row.jsonl", r"data_files\.test: there is no file .*row\.jsonl"),
        ("test_split: test", "test_split: dev", r"test_split: 'dev' is not among data_files: test"),
        ("test_split: test", "test_split: [test]", r"test_split: \['test'\] is not among data_files: test"),
        ("test_split: test", "", r"name the split to score: test_split, one of test"),
        ("metric: acc", "metric: accc", r"the harness has no metric 'accc' \(did you mean 'acc'\?\)"),
        ("metric: acc", "metric: rouge, hf_evaluate: true", r"hf_evaluate loads code from the hub"),
        ("task: mine", "include: nowhere.yaml", r"include: there is no 'nowhere\.yaml' beside it"),
        ("task: mine", "include: mine.yaml", r"includes itself"),
        (
            "task: mine",
            "task: mine\nmetadata: &all [*all, *all]",
            r"mine\.yaml: more than 100,000 values: an alias inside an alias\?",
        ),
        ("task: mine", "class: os.path", r"class names Python code"),
        ("multiple_choice", "generate_until\ngeneration_kwargs: {untill: x}", r"did you mean 'until'\?"),
        (
            "multiple_choice",
            "generate_until\ngeneration_kwargs: {temperature: 1.0, do_sample: false}",
            r"temperature has no effect without do_sample: true",
        ),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TASK
    with pytest.raises(UserError, match=said):
        build(write(tmp_path, TASK.replace(old, new)))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", r"rows\.jsonl: holds no example"),
        (f"{json.dumps(ROW)}\n{{q: 1}}\n", r"rows\.jsonl:2: is not JSON"),
        ("[1]", r"rows\.jsonl:1: must be an object"),
        (
            json.dumps(ROW) + '\n{"q": "x", "options": ["y"]}',
            r"rows\.jsonl:2: has no field 'a' .*doc_to_target",
        ),
        (json.dumps(ROW | {"q": None}), r"rows\.jsonl:1: has null in the field 'q'"),
        (json.dumps(ROW | {"a": 2}), r"rows\.jsonl:1: the harness cannot use it: IndexError"),
        (
            f"{json.dumps(ROW)}\n{json.dumps(ROW | {'a': 2})}",
            r"rows\.jsonl:2: the answer 2 is not one of the 2 choices",
        ),
        (
            f"{json.dumps(ROW)}\n{json.dumps(ROW | {'options': []})}",
            r"rows\.jsonl:2: doc_to_choice must give a list of texts, got \[\]",
        ),
        (f"{json.dumps(ROW)}\n{json.dumps(ROW | {'a': 'x'})}", r"rows\.jsonl: a field is not of one type"),
    ],
)
def test_a_wrong_example_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(write(tmp_path, rows=rows))


def test_a_name_is_found_and_a_wrong_one_gets_the_nearest(tmp_path: Path) -> None:
    write(tmp_path)
    [found] = find_definitions(["mine"], str(tmp_path))
    assert found.name == "mine"
    with pytest.raises(UserError, match=r"--tasks mne: no task file in .*\(did you mean 'mine'\?\);"):
        find_definitions(["mne"], str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        find_definitions(["mine"], str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="asked for twice"):
        find_definitions(["mine", str(tmp_path / "mine.yaml")], str(tmp_path))


def test_without_a_folder_of_ones_own_the_presets_tasks_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [found] = find_definitions(["example_choice"], None)
    assert found.file.path == REPOSITORY / "configs/eval/tasks/example_choice.yaml"
    (tmp_path / "configs/eval/tasks").mkdir(parents=True)
    with pytest.raises(UserError, match="no task file in configs/eval/tasks defines it"):
        find_definitions(["example_choice"], None)


def test_a_file_of_the_harness_may_be_included_with_its_functions(tmp_path: Path) -> None:
    row = {"activity_label": "Cooking", "ctx_a": "She takes a pan.", "ctx_b": "she", "label": "1"}
    rows = json.dumps(row | {"endings": ["flies away.", "heats it."]})
    own = {
        "include": "hellaswag/hellaswag.yaml",
        "task": "local_hellaswag",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": "rows.jsonl"}},
        "training_split": None,
    }
    [task] = build(write(tmp_path, yaml.safe_dump(own), rows))  # type: ignore[misc]
    assert task.instances[0].args == ("Cooking: She takes a pan. She", " flies away.")


def test_shipped_tasks_are_legal() -> None:
    folder = REPOSITORY / "configs/eval/tasks"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    assert names == ["example_choice", "example_continue", "example_last_word"]
    for name in names:
        build(folder / f"{name}.yaml")


@pytest.mark.parametrize("kind", ["bert", "gan", "rnn", "cnn"])
def test_a_model_that_continues_no_text_is_refused(kind: str) -> None:
    said = named_tasks(("mine",), None).misfit(kind)
    assert said is not None
    assert said.startswith(
        f"--tasks: task 1, harness, is for model.kind gpt or gpt-chat, not {kind}; for {kind} there is"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: [{task: harness}]", r"tasks\.0\.tasks: name at least one task of the harness"),
        ("tasks: [{task: perplexity, tasks: [a]}]", r"tasks\.0\.tasks: has no effect on task perplexity"),
        ("tasks: [{task: harness, tasks: [a], stride: 3}]", r"stride: has no effect on task harness"),
    ],
)
def test_a_suite_lists_tasks_of_the_harness(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_suite(str(tmp_path / "suite.yaml"))
    (tmp_path / "suite.yaml").write_text("tasks: [{task: harness, tasks: [a, b.yaml], task_folder: here}]")
    [entry] = load_suite(str(tmp_path / "suite.yaml")).entries
    assert entry.tasks == ("a", "b.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "a", "--stride", "4"], "--stride 4 has no effect with --tasks"),
        (["--tasks", "a", "--data", "b"], "--data b has no effect with --tasks"),
        (["--tasks", "a", "--suite", "b"], "--tasks a has no effect with --suite"),
        (["--task-folder", "a"], "--task-folder a has no effect without --tasks"),
    ],
)
def test_options_without_effect_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CliRunner().invoke(app, ["eval", "runs/none", *arguments], catch_exceptions=False)
