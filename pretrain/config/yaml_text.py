"""YAML text in, a tree of values with line numbers out.

YAML 1.1 turns `no` into false, `6e-4` into text, `1:30` into 90 and `012` into 10. Here a scalar is null,
true/false, a decimal number or text, and nothing else. Duplicate keys and tags are problems that are
collected; what makes the rest meaningless (broken syntax, an alias bomb) raises at once.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

from pretrain.config.node import ConfigError, Node, Problem, SourceLocation

MAX_DEPTH = 32
MAX_NODES = 20_000
_INT = r"[-+]?(0|[1-9][0-9]*)"
_FLOAT = (
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_NULL = r"~|null|Null|NULL|"
_BOOL = r"true|True|TRUE|false|False|FALSE"
_MERGE = r"<<"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
TAG = "tag:yaml.org,2002:"
RESOLVERS = tuple(
    (f"{TAG}{name}", re.compile(f"(?:{pattern})\\Z"))
    for name, pattern in (
        ("int", _INT),
        ("float", _FLOAT),
        ("null", _NULL),
        ("bool", _BOOL),
        ("merge", _MERGE),
    )
)
"""Which plain scalars are not text: tag and pattern."""


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalar rules above; refuses tags and deep nesting. Constructs no objects."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {None: list(RESOLVERS)}  # type: ignore[misc]

    def __init__(self, text: str, note: Callable[[int, str], None]) -> None:
        super().__init__(text)
        self._note = note
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._note(event.start_mark.line + 1, f"YAML tags are not allowed, got {_shown(tag)}")
            event.tag = None
            if isinstance(event, yaml.ScalarEvent):
                event.implicit = (event.style is None, True)
            else:
                event.implicit = True
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Reader:
    """Turns composed nodes into `Node`s, once per use of an alias and within a budget."""

    def __init__(self, location: Callable[[int], SourceLocation]) -> None:
        self.location = location
        self.problems: list[Problem] = []
        self._left = MAX_NODES
        self._open: set[int] = set()

    def note(self, line: int, text: str, key: str = "") -> None:
        self.problems.append(Problem(self.location(line), key, text))

    def read(self, node: yaml.Node, key: str, location: SourceLocation | None = None) -> Node:
        location = location or self.location(node.start_mark.line + 1)
        self._left -= 1
        if self._left < 0:
            raise ConfigError(
                [Problem(location, key, f"more than {MAX_NODES:,} values: an alias inside an alias?")]
            )
        if id(node) in self._open:
            raise ConfigError([Problem(location, key, "an alias contains itself")])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Node(self._mapping(node, key), location)
            if isinstance(node, yaml.SequenceNode):
                return Node(
                    [self.read(child, f"{key}[{i}]") for i, child in enumerate(node.value)],
                    location,
                )
            assert isinstance(node, yaml.ScalarNode)
            return Node(self._scalar(node, key, location), location)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == f"{TAG}merge":
                merged |= self._merged(value_node, key)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{TAG}str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self.note(line, f"a key must be text, got {_shown(shown)}", key)
                continue
            name = key_node.value
            path = f"{key}.{name}" if key else name
            if _CONTROL.search(name):
                self.note(line, f"a key holds a control character: {_shown(name)}", key)
                continue
            child = self.read(value_node, path, self.location(line))
            if name in own:
                self.note(
                    line, f"duplicate key; it was given in line {own[name].location.line} already", path
                )
            else:
                own[name] = child
        return merged | own

    def _merged(self, node: yaml.Node, key: str) -> dict[str, Node]:
        """`<<: *other` or `<<: [*first, *second]`; the first one wins, as YAML defines it."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Node] = {}
        for part in parts:
            read = self.read(part, key)
            if isinstance(read.value, dict):
                result = read.value | result
            else:
                self.note(node.start_mark.line + 1, "`<<` merges mappings only", key)
        return result

    def _scalar(
        self, node: yaml.ScalarNode, key: str, location: SourceLocation
    ) -> str | int | float | bool | None:
        text = str(node.value)
        match node.tag.removeprefix(TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) <= 300:
                    return int(text)
                self.note(location.line, f"number too large: {_shown(text)}", key)
                return None
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case _:
                return text


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def parse_yaml(text: str, location: Callable[[int], SourceLocation]) -> tuple[Node, int, list[Problem]]:
    """Read one YAML document.

    `location` makes a SourceLocation of a line number (1 is the first line). Returns the tree, the offset in
    `text` at which the value ends, and the problems that were found. Raises ConfigError if nothing can be
    read: broken syntax, NUL bytes, alias bombs, deep nesting.
    """
    reader = _Reader(location)
    bad = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        what = "a NUL byte" if bad.group() == "\0" else f"the control character {_shown(bad.group())}"
        raise ConfigError([Problem(location(line), "", f"{what} in the text; this is no YAML file")])
    try:
        loader = _Loader(text, reader.note)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(
            [Problem(location(mark.line + 1 if mark else 1), "", f"not readable as YAML: {what}")]
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        what = " ".join(str(error).split())
        raise ConfigError([Problem(location(1), "", f"not readable as YAML: {what}")]) from None
    if node is None:
        return Node(None, location(1)), 0, reader.problems
    return reader.read(node, ""), node.end_mark.index, reader.problems
