"""Walks the sections: which keys exist where, which name was meant, and what a bad value should be.

Everything here follows from the classes in `sections`; no key is named a second time.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pretrain.config.node import KeyPath, Node, Problem, dotted, find
from pretrain.config.sections import Config, Section
from pretrain.kinds import RECORDS, configs

MISSING = "required, and missing"

ORDER = (
    "run",
    "model",
    "batch",
    "parallel",
    "optimizer",
    "schedule",
    "loss",
    "data",
    "train",
    "precision",
    "checkpoint",
    "eval",
    "tracking",
    "health",
    "slurm",
)
"""Sections in the order in which they are written, whichever class has them."""


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section class that a field holds, alone, optional or in a tuple; None for a plain value."""

    def search(annotation: Any) -> type[Section] | None:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return annotation
        found = (search(part) for part in get_args(annotation))
        return next((section for section in found if section), None)

    return search(field.annotation)


def is_list(field: FieldInfo) -> bool:
    """Whether the field holds a tuple of sections."""

    def search(annotation: Any) -> bool:
        return getattr(annotation, "__origin__", None) is tuple or any(map(search, get_args(annotation)))

    return search(field.annotation)


def keys_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields of a section by the name they have in a file."""
    keys = {field.alias or name: field for name, field in section.model_fields.items()}
    if issubclass(section, Config):
        return {name: keys[name] for name in sorted(keys, key=_position)}
    return keys


def _position(section: str) -> int:
    """Position of a section in a file; sections that few kinds have come before those that all have."""
    return ORDER.index(section if section in ORDER else "loss")


def leaf_keys(section: type[Section], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every key that has a value, in the order of the sections; a list of sections counts as one value."""
    for name, field in keys_of(section).items():
        inner = section_of(field)
        if inner is None or is_list(field):
            yield (*prefix, name), field
        else:
            yield from leaf_keys(inner, (*prefix, name))


def every_key() -> dict[KeyPath, tuple[FieldInfo, ...]]:
    """The keys of all kinds, each with its fields: one, or several if the kinds define it differently."""
    found: dict[KeyPath, list[FieldInfo]] = {}
    for config in configs().values():
        for path, field in leaf_keys(config):
            found.setdefault(path, []).append(field)
    return {path: tuple(fields) for path, fields in found.items()}


def kinds_with(path: KeyPath) -> list[str]:
    """The kinds whose configs have a key or section."""
    found = []
    for kind, config in configs().items():
        section = section_at(config, path[:-1])
        if section is not None and path[-1] in keys_of(section):
            found.append(kind)
    return found


def kind_of(tree: Any) -> tuple[str | None, str | None]:
    """The kind that a config's values ask for, and what is wrong with what they say.

    If they name no kind it is the one that they most likely mean; None if that cannot be told.
    """
    model = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(model, dict) or "kind" not in model:
        return next(iter(RECORDS)), None  # it is reported as missing
    asked = model["kind"]
    if isinstance(asked, str) and asked in RECORDS:
        return asked, None
    meant = nearest_name(asked, RECORDS) if isinstance(asked, str) else None
    hint = f" (did you mean '{meant}'?)" if meant else ""
    return meant, f"must be {' or '.join(RECORDS)}, got {show(asked)}{hint}"


def section_at(top: type[Section], path: KeyPath) -> type[Section] | None:
    """The section that `path` leads to from `top`; list positions are skipped."""
    section: type[Section] | None = top
    for part in path:
        if section is None:
            return None
        if isinstance(part, str):
            field = keys_of(section).get(part)
            section = section_of(field) if field else None
    return section


def nearest_name(word: str, names: Iterable[str]) -> str | None:
    """The name that was most likely meant: at most one edit away, or very similar."""
    names = list(names)
    one_edit = [name for name in names if _edits(word.lower(), name.lower()) <= 1]
    if one_edit:
        return one_edit[0]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return close[0] if close else None


def _edits(a: str, b: str) -> int:
    """Edit distance in which a transposition of neighbours counts as one (Damerau 1964), cut off at 2."""
    if abs(len(a) - len(b)) > 1:
        return 2
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        new = [i]
        for j, other in enumerate(b, 1):
            cost = min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            new.append(cost)
        before, row = row, new
    return row[-1]


def problems_of(error: ValidationError, tree: Node, top: type[Section]) -> list[Problem]:
    """What pydantic found, in a user's words, each at the line of its value."""
    problems = []
    unknown: dict[KeyPath, str] = {}
    details = error.errors(include_url=False)
    for detail in details:
        path = detail["loc"]
        if detail["type"] == "extra_forbidden":
            hint, meant = _unknown_key(top, path)
            location = find(tree, path)[0].location
            problems.append(Problem(location, dotted(path), hint))
            if meant:
                unknown[(*path[:-1], meant)] = hint
    for detail in details:
        path = detail["loc"]
        if detail["type"] == "extra_forbidden" or (detail["type"] == "missing" and path in unknown):
            continue
        node, _ = find(tree, path)
        problems.append(Problem(node.location, dotted(path), _wrong_value(top, dict(detail))))
    return problems


def _unknown_key(top: type[Section], path: KeyPath) -> tuple[str, str | None]:
    word = str(path[-1])
    section = section_at(top, path[:-1])
    here = list(keys_of(section)) if section else []
    if len(path) == 1:
        here.append("base")  # of a file, not of the config that it becomes
    kind = "key" if len(path) > 1 else "section or key"
    others = kinds_with(path)
    if others:
        return f"'{word[:60]}' has no effect here: it belongs to model.kind {' or '.join(others)}", None
    meant = nearest_name(word, here)
    if meant:
        return f"unknown {kind} '{word[:60]}' (did you mean '{meant}'?)", meant
    elsewhere = {str(keys[-1]): dotted(keys) for keys, _ in leaf_keys(top)}
    other = nearest_name(word, elsewhere)
    if other:
        return f"unknown {kind} '{word[:60]}' (did you mean '{elsewhere[other]}'?)", None
    return f"unknown {kind} '{word[:60]}'; it has: {', '.join(here)}", None


_EXPECTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "tuple_type": "must be a path or a list of paths or {path, weight}",
    "too_short": "must name at least one source",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def _wrong_value(top: type[Section], detail: dict[str, Any]) -> str:
    """One sentence: what the value must be, what it is, and what was likely meant."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return MISSING
    got = f", got {show(value)}"
    if kind == "literal_error":
        section = section_at(top, detail["loc"][:-1])
        field = keys_of(section)[detail["loc"][-1]] if section else None
        choices = [str(choice) for choice in (get_args(field.annotation) if field else ())]
        meant = nearest_name(value, choices) if isinstance(value, str) else None
        return f"must be {' or '.join(choices)}{got}" + (f" (did you mean '{meant}'?)" if meant else "")
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{words} {context[bound]}{got}"
    if kind == "value_error":
        return f"{context['error']}{got}"
    return f"{_EXPECTED.get(kind, detail['msg'])}{got}{_hint(kind, value)}"


def _hint(kind: str, value: Any) -> str:
    """How the value would have to be written, if that can be told."""
    if value is None:
        return " (nothing is written after the colon, or null)"
    if (
        isinstance(value, float)
        and kind in ("int_type", "int_from_float")
        and value.is_integer()
        and abs(value) < 2**53
    ):
        return f" (write {int(value)})"
    if isinstance(value, str) and kind == "bool_type" and value.lower() in ("yes", "on", "y", "true"):
        return " (write true)"
    if isinstance(value, str) and kind == "bool_type" and value.lower() in ("no", "off", "n", "false"):
        return " (write false)"
    if isinstance(value, str) and kind in ("int_type", "float_type"):
        digits = value.replace("_", "").replace(",", "").strip()
        try:
            number = int(digits) if kind == "int_type" else float(digits)
        except ValueError:
            return ""
        return f" (write {number})" if len(digits) < 19 else ""
    if isinstance(value, int | float) and kind == "string_type":
        return f' (write "{show(value)}" in quotation marks)'
    return ""


def show(value: Any) -> str:
    """A value as YAML would write it, on one short line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= 80 else f"{text[:77]}..."
