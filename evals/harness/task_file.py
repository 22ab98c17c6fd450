"""Task files of the harness: YAML in, one resolved mapping out, without running any code in it."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_tools.bounded import SMALL_FILE, read_bytes
from evals.harness.library import harness_folder
from pretrain.errors import UserError

MAX_INCLUDES = 20
MAX_VALUES = 100_000


@dataclass(frozen=True)
class TaskFile:
    """The content of a task file, including the files that it includes."""

    path: Path
    keys: Mapping[str, Any]
    files: tuple[Path, ...]
    """The file itself and those it includes."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Key -> folder of the file that defines it."""


def read_task_file(path: Path) -> TaskFile:
    """Read a task file and what it includes; its own keys win.

    Raises UserError: the file does not exist, is empty, is not a YAML mapping or would run code.
    """
    keys: dict[str, Any] = {}
    files: list[Path] = []
    folders: dict[str, Path] = {}
    _read_into(path, keys, files, folders)
    return TaskFile(path, keys, tuple(files), folders)


def _read_into(path: Path, keys: dict[str, Any], files: list[Path], folders: dict[str, Path]) -> None:
    if path in files or len(files) == MAX_INCLUDES:
        raise UserError(f"{path}: includes itself, or more than {MAX_INCLUDES} files")
    files.append(path)
    if path.resolve().is_relative_to(harness_folder()):
        from lm_eval.tasks._yaml_loader import load_yaml

        # The harness's own files may name functions of the harness: these belong to the installed package.
        own = load_yaml(path)
    else:
        own = _parse(path)
    included = own.pop("include", None) or []
    for name in included if isinstance(included, list) else [included]:
        _read_into(_included(path, name), keys, files, folders)
    keys |= own
    folders |= dict.fromkeys(own, path.parent)


def _included(path: Path, name: Any) -> Path:
    """A file beside the file, or one of the harness's own, such as `lambada/lambada_openai.yaml`."""
    for folder in (path.parent, harness_folder()):
        if isinstance(name, str) and (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{path}: include: there is no {name!r} beside it, nor among the harness's own in {harness_folder()}"
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, SMALL_FILE).decode("utf-8")
        found = yaml.load(text, _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if found is None:
        raise UserError(f"{path}: the file is empty; a task file names a task, its data and its templates")
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{path}: must be a mapping with keys such as task, dataset_kwargs and doc_to_text")
    _refuse_bomb(path, found)
    return found


def _refuse_bomb(path: Path, value: Any) -> None:
    """Raise UserError for lists whose aliases expand to too many values, or that contain themselves."""
    waiting, left = [value], MAX_VALUES
    while waiting:
        each, left = waiting.pop(), left - 1
        if left < 0:
            raise UserError(f"{path}: more than {MAX_VALUES:,} values: an alias inside an alias?")
        waiting += each.values() if isinstance(each, dict) else each if isinstance(each, list) else []


class _Loader(yaml.SafeLoader):
    """Reads YAML as the harness does, but refuses tags and duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value}: stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse_function(_: yaml.Loader, node: yaml.Node) -> None:
    raise yaml.MarkedYAMLError(
        problem=f"!function {node.value} runs code; only the harness's own task files may: write a template, "
        "or include one of those files",
        problem_mark=node.start_mark,
    )


_Loader.add_constructor("!function", _refuse_function)
