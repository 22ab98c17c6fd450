"""A value of a config, together with where it was written.

Config files, base files and command-line overrides all become trees of `Node`, and merging works on trees. So
every error and every line of `pretrain check --show` can say where a value came from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pretrain.errors import UserError

Layer: TypeAlias = Literal["file", "base", "command line", "default"]
KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class SourceLocation:
    """Where a value was written: a line of a file, the command line, or nowhere (a default)."""

    layer: Layer
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.layer in ("command line", "default"):
            return self.layer
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a config."""

    location: SourceLocation
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.location), self.key, self.text) if part)


@dataclass(frozen=True)
class Node:
    """A mapping, a list or a scalar, and its source; children of a mapping keep the order of the file."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    location: SourceLocation


class ConfigError(UserError):
    """A config that cannot be used; the message lists every problem that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        head = [] if len(lines) == 1 else [f"{len(lines)} problems in the config:"]
        super().__init__("\n".join(head + lines))


def dotted(path: KeyPath) -> str:
    """`("data", "train", 0, "path")` as `data.train[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def find(node: Node, path: KeyPath) -> tuple[Node, bool]:
    """The node at `path`, or the deepest one on the way to it; and whether `path` itself was written."""
    for part in path:
        child = None
        if isinstance(node.value, dict) and isinstance(part, str):
            child = node.value.get(part)
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            return node, False
        node = child
    return node, True


def merge(lower: Node, upper: Node) -> Node:
    """Merge mappings key by key; of anything else, `upper` wins as a whole."""
    if not (isinstance(lower.value, dict) and isinstance(upper.value, dict)):
        return upper
    merged = dict(lower.value)
    for key, child in upper.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, lower.location)


def mapping(node: Node) -> Mapping[str, Node]:
    """The children of a mapping; none for anything else."""
    return node.value if isinstance(node.value, dict) else {}
