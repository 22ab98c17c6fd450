"""Writes docs/config.md from the docstrings in `sections`: `python -m pretrain.config.docs`.

The page has no other source, so it cannot disagree with the code; a test compares the two.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pretrain.config.schema import ORDER, is_list, keys_of, section_of, show
from pretrain.config.sections import BatchStageConfig, Config, Section, Source, StageConfig
from pretrain.kinds import RECORDS, configs

PAGE = "docs/config.md"
_HEAD = """# Config keys

<!-- Made by `python -m pretrain.config.docs` from pretrain/config/sections; edit that instead. -->

A config is a YAML file of sections. Keys not given have the default; a key that does not exist, stands
twice or has a value of the wrong type is refused with its line. `key=value` behind a command wins over the
file: `pretrain train configs/gpt/tiny.yaml optimizer.lr=3e-3`. `pretrain check FILE` reports everything
that is wrong at once; `pretrain check --show FILE` prints every key with its value and where it came from.

- `base: other.yaml`, at the top, takes from another file (path relative to this one) all keys that this file
  does not set itself. A base cannot have a base. Sections are merged key by key, lists are replaced.
- Numbers are decimal (`6e-4` is one, `1_000` and `012` are not); only `true` and `false` are truth values;
  text that looks like a number needs quotation marks. `null` is the default of keys that say so.
- Nothing is expanded: no `~`, no `$HOME`, no references between keys. YAML anchors and `<<` work; tags do
  not.
- `model.kind` decides which keys there are. The last column names the kinds that have a key; it is empty
  where all have it.
- Relative paths are relative to the working directory.
- Combinations of keys that cannot work, and keys that would have no effect, are refused.
"""
_BOUNDS = {
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
}
_LISTS: Mapping[type[Section] | None, str] = MappingProxyType(
    {Source: "path, or list of sources", StageConfig: "list of stages", BatchStageConfig: "list of stages"}
)
_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}


def config_page() -> str:
    return "\n".join([_HEAD, *_page_lines()]) + "\n"


def _page_lines() -> Iterator[str]:
    yield from _table("Keys outside of sections", configs())
    for name in ORDER:
        sections = {kind: keys_of(config).get(name) for kind, config in configs().items()}
        classes = {kind: section_of(field) for kind, field in sections.items() if field is not None}
        found = {kind: section for kind, section in classes.items() if section is not None}
        if found:
            yield from _table(f"`{name}`", found)
    yield from _table(
        "A source of `data.train`", {"": Source}, "An item of the list may also be a path alone."
    )
    yield from _table("A stage of `schedule.sequence_length`", {"": StageConfig})


def _table(title: str, sections: Mapping[str, type[Section]], text: str | None = None) -> Iterator[str]:
    """One section, with the keys of all kinds. A key that kinds define differently has a row for each."""
    yield f"## {title}\n"
    if not any(issubclass(section, Config) for section in sections.values()):
        for words in (
            [text] if text else dict.fromkeys(_sentence(inspect.getdoc(each)) for each in sections.values())
        ):
            yield f"{words}\n"
    yield "| key | value | default | meaning | kinds |"
    yield "|---|---|---|---|---|"
    rows: dict[tuple[str, ...], list[str]] = {}
    for kind, section in sections.items():
        for row in _rows(section):
            rows.setdefault(row, []).append(kind)
    names = list(dict.fromkeys(row[0] for row in rows))
    for row, kinds in sorted(rows.items(), key=lambda item: names.index(item[0][0])):
        whose = ", ".join(kinds) if len(kinds) < len(RECORDS) and kinds != [""] else ""
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (*row, whose)) + " |"
    yield ""


def _rows(section: type[Section]) -> Iterator[tuple[str, ...]]:
    """Key, value, default and meaning of each key of a section that has a value."""
    described = section.model_json_schema()["properties"]
    for name, field in keys_of(section).items():
        inner = section_of(field)
        if inner is not None and not is_list(field):
            continue
        value = _type(described[name]) if inner is None else _LISTS[inner]
        default = "required" if field.is_required() else f"`{_default(field.default)}`"
        yield f"`{name}`", value, default, _sentence(field.description)


def _type(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words: type, choices, bounds."""
    parts = schema.get("anyOf", [schema])
    words = []
    for part in parts:
        if part.get("type") == "null":
            words.append("null")
        elif "enum" in part or "const" in part:
            words += [f"`{choice}`" for choice in part.get("enum", [part.get("const")])]
        elif part["type"] == "array":
            items = part["items"]
            words.append(f"list of {_type(items)}" if "enum" in items else "list of texts")
        else:
            bounds = [text.format(part[key]) for key, text in _BOUNDS.items() if key in part]
            words.append(" ".join([_TYPES[part["type"]], " and ".join(bounds)]).strip())
    return " or ".join(words)


def _default(value: Any) -> str:
    if value == ():
        return "[]"
    return value if isinstance(value, str) else show(value)


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def main() -> None:
    """Write the page into the repository that holds this package."""
    page = Path(__file__).parents[2] / PAGE
    page.write_text(config_page(), encoding="utf-8")
    print(f"wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
