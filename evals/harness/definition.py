"""What a task is: its settings for the harness, and the local files with its examples."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from inspect import getsource
from pathlib import Path
from typing import Any

from evals.harness.library import require_harness
from evals.harness.task_file import TaskFile, read_task_file
from pretrain.config.presets import presets_folder
from pretrain.config.schema import nearest_name
from pretrain.errors import UserError

FOLDER = "configs/eval/tasks"
"""Where names of tasks are looked up; if there is no such folder, in that of the presets."""
SUFFIXES = (".yaml", ".yml")
_REFUSED: Mapping[str, str] = {
    "group": "is a list of tasks; name each of them with --tasks",
    "class": "names Python code; only YAML definitions are read",
    "custom_dataset": "names Python code; give JSON lines in dataset_kwargs.data_files",
    "use_prompt": "reads templates from another package; write them out",
    "unsafe_code": "is for tasks that run what a model has written; those are not run",
    "doc_to_image": "is for models that see; this is one of texts",
    "doc_to_audio": "is for models that hear; this is one of texts",
    "dataset_name": "has no effect on local data; remove it, or write null",
}
_STRUCTURE = ("tag", "task_list", "group_alias")
"""Keys that say where a task is listed, and nothing about the task itself."""
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


@dataclass(frozen=True)
class Definition:
    """A task with all its settings resolved."""

    name: str
    file: TaskFile
    settings: Mapping[str, Any]
    """As the harness's `TaskConfig` takes them, except for where the data come from."""
    data: Mapping[str, tuple[Path, ...]]
    """Split -> JSON lines."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that decides its examples and how they are presented."""
        return (*self.file.files, *(path for paths in self.data.values() for path in paths))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the settings; functions of the harness count by their source."""
        text = json.dumps(sorted(self.settings.items()), default=_source)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def shown(self) -> dict[str, Any]:
        """The settings in a form that JSON can hold."""
        shown: dict[str, Any] = json.loads(json.dumps(self.settings, default=_source))
        return shown


def find_definitions(tasks: Sequence[str], folder: str | None) -> tuple[Definition, ...]:
    """The definitions of tasks.

    Args:
        tasks: task files, or names of tasks in `folder`.
        folder: where to look for names; None: `FOLDER`, or if that is missing, the presets.

    Raises:
        UserError: a task is missing, is wrong, or needs data that are not local.
    """
    require_harness()
    found: dict[str, Definition] = {}
    for task in tasks:
        file = (
            read_task_file(Path(task)) if _is_path(task) else _named(task, Path(folder or _default_folder()))
        )
        definition = _settle(file)
        if definition.name in found:
            raise UserError(f"{file.path}: task '{definition.name}' is asked for twice")
        found[definition.name] = definition
    return tuple(found.values())


def hint(name: object, known: Iterable[str], there_are: str = "known are") -> str:
    """The known name that was probably meant, or all of them."""
    names = list(known)
    meant = nearest_name(str(name), names)
    return f"did you mean '{meant}'?" if meant else f"{there_are}: {', '.join(names) or 'none'}"


def _default_folder() -> Path:
    here = Path(FOLDER)
    return here if here.is_dir() else presets_folder() / "eval" / "tasks"


def _is_path(task: str) -> bool:
    return task.endswith(SUFFIXES) or "/" in task


def _named(name: str, folder: Path) -> TaskFile:
    if not folder.is_dir():
        raise UserError(
            f"--tasks {name}: there is no folder {folder} to find it in; name one with --task-folder"
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    known: dict[str, TaskFile] = {}
    for path in paths:
        file = read_task_file(path)
        known.setdefault(str(file.keys.get("task")), file)
    if name in known:
        return known[name]
    raise UserError(
        f"--tasks {name}: no task file in {folder} defines it ({hint(name, known, 'there are')}); the "
        "harness's own tasks read "
        "data from the hub, and nothing is downloaded: include one in a task file and name local data"
    )


def _settle(file: TaskFile) -> Definition:
    settings = {key: value for key, value in file.keys.items() if key not in _STRUCTURE}
    for key, why in _REFUSED.items():
        if settings.get(key):
            raise UserError(f"{file.path}: {key} {why}")
        settings.pop(key, None)
    _check_keys(file, settings)
    name = settings.get("task")
    if not isinstance(name, str) or not name:
        raise UserError(f"{file.path}: has no key 'task' with the name of the task, got {name!r}")
    if not all(letter.isalnum() or letter in "_-." for letter in name):
        raise UserError(
            f"{file.path}: task: {name!r} is part of names of metrics: letters, digits, '_', '-', '.' only"
        )
    _check_metrics(file, settings)
    data = _data_files(file, settings.pop("dataset_path", None), settings.pop("dataset_kwargs", None))
    _check_splits(file, settings, data)
    return Definition(name, file, settings, data)


def _check_keys(file: TaskFile, settings: Mapping[str, Any]) -> None:
    from lm_eval.api.task import ALL_OUTPUT_TYPES
    from lm_eval.config.task import TaskConfig

    known = [each.name for each in fields(TaskConfig)]
    for key in settings:
        if key not in known:
            raise UserError(f"{file.path}: unknown key '{key}' ({hint(key, known)})")
    kind = settings.get("output_type", "generate_until")
    if kind not in ALL_OUTPUT_TYPES:
        raise UserError(f"{file.path}: output_type: {kind!r} is none ({hint(kind, ALL_OUTPUT_TYPES)})")


def _check_metrics(file: TaskFile, settings: Mapping[str, Any]) -> None:
    """Allow only metrics that the harness itself can compute: for an unknown name it would ask the hub."""
    import lm_eval.api.metrics  # noqa: F401 (fills the registry)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY

    if callable(settings.get("process_results")):
        return
    metrics = settings.get("metric_list")
    if metrics is not None and not (isinstance(metrics, list) and metrics):
        raise UserError(f"{file.path}: metric_list must be a list such as [{{metric: acc}}], got {metrics!r}")
    for metric in metrics or []:
        if not isinstance(metric, dict) or "metric" not in metric:
            raise UserError(f"{file.path}: metric_list: {metric!r} has no key 'metric'")
        if metric.get("hf_evaluate"):
            raise UserError(f"{file.path}: metric {metric['metric']}: hf_evaluate loads code from the hub")
        for key, known in (("metric", METRIC_REGISTRY), ("aggregation", AGGREGATION_REGISTRY)):
            value = metric.get(key)
            if isinstance(value, str) and value not in known:
                what = f"the harness has no {key} '{value}' ({hint(value, known)})"
                raise UserError(f"{file.path}: metric_list: {what}")


def _data_files(file: TaskFile, kind: Any, arguments: Any) -> dict[str, tuple[Path, ...]]:
    if kind != "json":
        raise UserError(
            f"{file.path}: dataset_path: {kind!r} is to come from the hub, and nothing is downloaded; give "
            "dataset_path: json and dataset_kwargs: {data_files: {test: FILE.jsonl}}"
        )
    named = arguments.get("data_files") if isinstance(arguments, dict) else None
    if not named or set(arguments) != {"data_files"}:
        raise UserError(
            f"{file.path}: dataset_kwargs must be {{data_files: {{test: FILE.jsonl}}}} and nothing else, "
            f"got {arguments!r}"
        )
    splits = named if isinstance(named, dict) else {"train": named}  # as the package datasets names it
    folder = file.folders["dataset_kwargs"]
    found = {}
    for split, paths in splits.items():
        texts = [paths] if isinstance(paths, str) else paths
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{file.path}: data_files.{split}: must be a file of JSON lines, or a list of them"
            )
        found[str(split)] = tuple(folder / text for text in texts)
        for path in found[str(split)]:
            if not path.is_file():
                raise UserError(f"{file.path}: data_files.{split}: there is no file {path}")
    return found


def _check_splits(file: TaskFile, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    for key in _SPLITS:
        split = settings.get(key)
        if split is not None and not (isinstance(split, str) and split in data):
            raise UserError(f"{file.path}: {key}: {split!r} is not among data_files: {', '.join(data)}")
    if not settings.get("test_split") and not settings.get("validation_split"):
        raise UserError(f"{file.path}: name the split to score: test_split, one of {', '.join(data)}")


def _source(value: Any) -> str:
    """A function of the harness by name and source, which its own task files refer to; a date as text."""
    if not callable(value):
        return str(value)
    name = f"{value.__module__}.{value.__qualname__}"
    return f"{name} ({hashlib.sha256(getsource(value).encode()).hexdigest()[:12]})"
