"""A config file and its overrides in, one frozen Config out, with the source of every value.

Reading (`read_config`) is separate from judging (`rules.violations`); `load_config` does both. All problems
of a file are reported together, each as `file:line: section.key: what is wrong`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from data_tools.bounded import open_regular
from data_tools.names import is_foreign, masked, storable, unmasked
from pretrain.config.inherit import INIT_FROM, RESOLVED_CONFIG, with_inherited
from pretrain.config.node import (
    ConfigError,
    Layer,
    Node,
    Problem,
    SourceLocation,
    dotted,
    find,
    mapping,
    merge,
    plain,
)
from pretrain.config.presets import copy_hint
from pretrain.config.rules import violations
from pretrain.config.schema import MISSING, kind_of, leaf_keys, nearest_name, problems_of, show
from pretrain.config.sections import Config, Section
from pretrain.config.yaml_text import MAX_DEPTH, parse_yaml
from pretrain.errors import IntegrityError, UserError
from pretrain.kinds import configs, kind_named

S = TypeVar("S", bound=Section)
MAX_BYTES = 1 << 20
KIND = ("model", "kind")


@dataclass(frozen=True)
class LoadedConfig:
    """A config and where it came from."""

    config: Config
    text_as_written: str
    """The file as written; a base file and command-line overrides follow as comments."""
    sources: Mapping[str, SourceLocation]
    """Dotted key -> source of its value, for every key; `default` if nobody wrote it."""
    path: str

    @contextmanager
    def at_its_line(self) -> Iterator[None]:
        """In the block, give an error about a key the line where the key is written.

        Raises:
            ConfigError: for a UserError that names a key of the config; an IntegrityError stays one.
        """
        try:
            yield
        except IntegrityError:
            raise
        except UserError as error:
            if error.key is None or error.key not in self.sources:
                raise
            raise ConfigError([Problem(self.sources[error.key], error.key, error.text)]) from None


@dataclass(frozen=True)
class _File:
    tree: Node
    text: str
    problems: tuple[Problem, ...]


def load_config(
    path: str,
    overrides: Sequence[str] = (),
    world_size: int | None = None,
    under: str | None = None,
    *,
    saved: bool = False,
) -> LoadedConfig:
    """Read a config and apply the rules between keys.

    `overrides` are `section.key=value` texts; `world_size` is the number of processes, if known; `under`
    names a file whose keys count where the config and its base say nothing; `saved` as in `read_config`.
    Raises ConfigError (exit code 2) with all problems of the reading, or else with all violated rules.
    """
    loaded = read_config(path, overrides, under, saved=saved)
    found = violations(loaded.config, world_size)
    if found:
        raise ConfigError([violation.problem(loaded.sources) for violation in found])
    return loaded


def read_config(
    path: str, overrides: Sequence[str] = (), under: str | None = None, *, saved: bool = False
) -> LoadedConfig:
    """Read a config without the rules between keys. Raises ConfigError with every problem that was found.

    `saved`: the config is stored in a run or a checkpoint, so the run that its weights came from is not
    looked for.
    """
    tree, text, problems = _read_tree(path, overrides, under)
    tree = tree if saved else with_inherited(tree, problems)
    values = plain(tree)
    kind, wrong = kind_of(values)
    if wrong:
        problems.append(Problem(find(tree, KIND)[0].location, dotted(KIND), wrong))
        if kind is None:  # which other keys may exist depends on it
            raise ConfigError(problems)
        values["model"]["kind"] = kind
    assert kind is not None, "nothing is wrong with it"
    config: Config = _validated(kind_named(kind).config, tree, values, problems, path)
    return LoadedConfig(config, storable(text), _sources(tree, type(config)), path)


def read_section(
    top: type[S], path: str, overrides: Sequence[str] = (), under: str | None = None
) -> tuple[S, Mapping[str, SourceLocation]]:
    """Read a file that is not a training config, with the sections of `top`; also returns each key's source.

    Raises ConfigError as `read_config`.
    """
    tree, _, problems = _read_tree(path, overrides, under)
    return _validated(top, tree, plain(tree), problems, path), _sources(tree, top)


def saved_kind(path: str | Path) -> str | None:
    """`model.kind` of a run folder or step folder; None if the path is neither."""
    file = Path(path) / RESOLVED_CONFIG
    if "\0" in str(path) or not file.is_file():
        return None
    return read_config(str(file), saved=True).config.model.kind


def sections_in(path: str) -> frozenset[str]:
    """The sections that a file and its base name, which tell what it is for. Raises as `read_config`."""
    return frozenset(mapping(_read_tree(path, (), None)[0]))


def _validated(top: type[S], tree: Node, values: Any, problems: list[Problem], path: str) -> S:
    section = None
    try:
        section = top.model_validate(values)
    except ValidationError as error:
        # If a run cannot be read, what it would have given must not be reported as missing.
        inherits = any(problem.key == dotted(INIT_FROM) for problem in problems)
        found = problems_of(error, tree, top)
        problems += [problem for problem in found if not (inherits and problem.text == MISSING)]
    if problems or section is None:
        raise ConfigError(sorted(problems, key=_reading_order(path)))
    return section


def _read_tree(path: str, overrides: Sequence[str], under: str | None) -> tuple[Node, str, list[Problem]]:
    """The file merged with its base, `under` and the command line; its text; its problems."""
    file = _read_file(path, is_base=False)
    problems = list(file.problems)
    tree, text = file.tree, file.text
    base = _read_base(path, file, problems)
    if base:
        problems += base.problems
        tree = merge(base.tree, tree)
        text += _as_comments(f"base: {show(plain(mapping(file.tree)['base']))}", base.text)
    if under is not None:
        lowest = _read_file(under, is_base=True)
        problems += lowest.problems
        tree = merge(lowest.tree, tree)
        text += _as_comments(f"under it: {show(under)}", lowest.text)
    tree = merge(tree, _parse_overrides(overrides, problems))
    if overrides:
        text += _as_comments("command line:", "\n".join(overrides))
    tree = Node({key: child for key, child in mapping(tree).items() if key != "base"}, tree.location)
    return tree, text, problems


def _reading_order(path: str) -> Callable[[Problem], tuple[bool, bool, str, int]]:
    """Sort key of problems: the file itself, then its base, then the command line; within a file by line."""

    def key(problem: Problem) -> tuple[bool, bool, str, int]:
        location = problem.location
        return location.layer == "command line", location.file != path, location.file, location.line

    return key


def _read_file(path: str, is_base: bool) -> _File:
    layer: Layer = "base" if is_base else "file"
    text = _read_text(path)
    tree, _, problems = parse_yaml(text, lambda line: SourceLocation(layer, path, line))
    if tree.value is None:
        raise ConfigError([Problem(SourceLocation("file", path, 1), "", "the file is empty")])
    if not isinstance(tree.value, dict):
        what = "a list" if isinstance(tree.value, list) else show(tree.value)
        raise ConfigError(
            [Problem(tree.location, "", f"a config is a mapping of sections (`model:` ...), got {what}")]
        )
    return _File(tree, text, tuple(problems))


def _read_text(path: str) -> str:
    """The file as text. Raises UserError if it cannot be opened, is too large or is not UTF-8."""
    try:
        with open_regular(path) as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file{_similar_file(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory; a config is a YAML file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path!r}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES:,} bytes; this is no config file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x} at offset {error.start:,}"
        raise ConfigError(
            [Problem(SourceLocation("file", path, line), "", f"is not UTF-8 text: {byte}")]
        ) from None


def _similar_file(path: str) -> str:
    folder = Path(path).parent
    try:
        names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    except OSError:
        names = []
    if meant := nearest_name(Path(path).name, names):
        return f" (did you mean '{folder / meant}'?)"
    hint = copy_hint(path)
    return f"; it is a preset: `{hint}` writes it here" if hint else ""


def _read_base(path: str, file: _File, problems: list[Problem]) -> _File | None:
    """The file named by `base:`, relative to the one that names it; it may not have a base itself."""
    node = mapping(file.tree).get("base")
    if node is None:
        return None
    if not isinstance(node.value, str) or not node.value:
        problems.append(
            Problem(node.location, "base", f"must be the path of a config, got {show(plain(node))}")
        )
        return None
    base_path = os.path.join(os.path.dirname(path), node.value)
    try:
        base = _read_file(base_path, is_base=True)
    except ConfigError as error:
        problems += error.problems
        return None
    except UserError as error:
        problems.append(Problem(node.location, "base", str(error)))
        return None
    inner = mapping(base.tree).get("base")
    if inner is not None:
        problems.append(
            Problem(inner.location, "base", f"{path} uses this file as its base; a base has none")
        )
    return base


def _parse_overrides(overrides: Sequence[str], problems: list[Problem]) -> Node:
    """All `section.key=value` texts as one tree; a key that is given twice is a problem."""
    location = SourceLocation("command line")
    layer = Node({}, location)
    given: set[tuple[str, ...]] = set()
    for override in overrides:
        key, equals, value = override.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path) or len(path) > MAX_DEPTH:
            problems.append(Problem(location, "", f"expected section.key=value, got {show(override)}"))
            continue
        if path[0] == "base":
            problems.append(Problem(location, "base", "stands in the file, not on the command line"))
            continue
        if any(path[: len(other)] == other or other[: len(path)] == path for other in given):
            problems.append(Problem(location, key, "duplicate key; it is given twice"))
            continue
        try:
            node, end, found = _parse_value(value, location)
        except ConfigError as error:
            problems += [Problem(location, key, f"{one.text}, in {show(value)}") for one in error.problems]
            continue
        if isinstance(node.value, str) and "\n" in value.strip() and "\n" not in node.value:
            text = f"YAML makes {show(node.value)} of {show(value)}; write \\n in double quotation marks"
            problems.append(Problem(location, key, text))
        if end < len(value.rstrip()):
            problems.append(
                Problem(location, key, f"{show(value)} is cut short by YAML; put it in quotation marks")
            )
        problems += [Problem(location, ".".join((key, one.key)).strip("."), one.text) for one in found]
        given.add(path)
        for part in reversed(path):
            node = Node({part: node}, location)
        layer = merge(layer, node)
    return layer


def _parse_value(text: str, location: SourceLocation) -> tuple[Node, int, list[Problem]]:
    """As `parse_yaml`, but keeps bytes of a file name that are not UTF-8, which no YAML text may contain."""
    node, end, problems = parse_yaml(masked(text), lambda line: location)
    return _unmasked(node) if is_foreign(text) else node, end, problems


def _unmasked(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        return Node({key: _unmasked(child) for key, child in value.items()}, node.location)
    if isinstance(value, list):
        return Node([_unmasked(child) for child in value], node.location)
    return Node(unmasked(value), node.location) if isinstance(value, str) else node


def _as_comments(title: str, text: str) -> str:
    return "\n" + "".join(f"# {line}\n" for line in [title, *text.splitlines()])


def _sources(tree: Node, top: type[Section]) -> Mapping[str, SourceLocation]:
    sources = {}
    for path, _ in leaf_keys(top):
        node, written = find(tree, path)
        sources[dotted(path)] = node.location if written else SourceLocation("default")
    return MappingProxyType(sources)


C = TypeVar("C", bound=Config)


def require_kind(config: Config, wanted: type[C] | tuple[type[C], ...], what: str) -> C:
    """The config as a `wanted` one, or as one of several.

    Raises UserError, saying that `what` is not for its `model.kind`.
    """
    if isinstance(config, wanted):
        return config
    kinds = " or ".join(kind for kind, known in configs().items() if issubclass(known, wanted))
    raise UserError(f"{what} is for model.kind {kinds}; this config has {config.model.kind}")
