"""The examples of a task: JSON lines, each with every field that the task's templates name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.harness.definition import Definition, hint
from pretrain.data.table import read_lines
from pretrain.errors import UserError

_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")
_OR_FIELD = _TEMPLATES[:3]
"""Templates that may also be just the name of a field."""


@dataclass(frozen=True)
class TaskExample:
    """One line of a file."""

    location: str
    """File and line."""
    fields: Mapping[str, Any]


def read_examples(definition: Definition) -> dict[str, list[TaskExample]]:
    """The examples of each split.

    Raises UserError: a file holds none, a line is not a JSON object, or lacks a field that the task names.
    """
    found: dict[str, list[TaskExample]] = {}
    for split, paths in definition.data.items():
        found[split] = [example for path in paths for example in _read(path)]
        if not found[split]:
            raise UserError(f"{', '.join(map(str, paths))}: holds no example, not one line")
    if not callable(definition.settings.get("process_docs")):  # which adds fields of its own
        for key, name in _fields_named(
            definition, {name for one in found.values() for name in one[0].fields}
        ):
            _require(definition, key, name, [example for one in found.values() for example in one])
    return found


def _read(path: Path) -> Iterator[TaskExample]:
    for number, line in read_lines(str(path)):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise UserError(f"{path}:{number}: must be an object with the fields of an example")
        yield TaskExample(f"{path}:{number}", fields)


def _fields_named(definition: Definition, known: set[str]) -> Iterator[tuple[str, str]]:
    """Each key of the task with a field that its template names."""
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
    environment.filters["regex_replace"] = str  # a filter of the harness; only its name matters here
    for key in _TEMPLATES:
        template = definition.settings.get(key)
        if not isinstance(template, str):
            continue
        if template in known or (key in _OR_FIELD and template.isidentifier()):
            yield key, template
            continue
        try:
            names = meta.find_undeclared_variables(environment.parse(template))
        except TemplateSyntaxError as error:
            raise UserError(f"{definition.file.path}: {key}: is no template: {error.message}") from None
        for name in sorted(names - set(environment.globals)):
            yield key, name


def _require(definition: Definition, key: str, name: str, examples: Sequence[TaskExample]) -> None:
    for example in examples:
        if example.fields.get(name) is not None:
            continue
        what = "null in the field" if name in example.fields else "no field"
        fields = hint(name, example.fields, "it has")
        raise UserError(
            f"{example.location}: has {what} '{name}' ({fields}), which {key} of {definition.file.path} names"
        )
