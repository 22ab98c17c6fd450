"""What every `index.json` has in common: how it is written, found, read and parsed with checks.

The index is written last and atomically, so its presence means that the build finished. `kind` says what the
shards hold. `fingerprint` is the sha256 over everything else in the file, so any edit, damage or mix-up in
the index is found when it is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from data_tools.bounded import parse_json, read_bytes
from data_tools.errors import IntegrityError, UserError

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
INDEX_BYTES = 128 << 20
"""Size limit of an index, which is read whole: 0.9 million blocks of text, or 6 million images."""
INDEX_MEMORY = 1 << 30
VALUE_BYTES, CONTAINER_BYTES = 64, 240
"""Upper bounds of the memory that a number or short text, and a list or object, take once read."""
WORK_DIR = ".build"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.tar")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
BUILDERS = {"text": "pretrain data build", "images": "pretrain data images"}
"""The kinds of shards, and the command that makes each."""


class ShardFile(Protocol):
    """What every index records about a tar file."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def sha256(self) -> str:
        """Checksum of the whole file."""


def content_fingerprint(content: dict[str, Any]) -> str:
    """The sha256 of an index's content (without its own `fingerprint`) in canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def index_kind(directory: str | os.PathLike[str], named: str | None = None) -> str:
    """What the shards of a directory hold, one of `BUILDERS`; `named` as in `read_document`.

    Raises:
        UserError: `directory` does not exist, or is not a shard directory.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    path, document = _load(directory, None, named)
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind not in BUILDERS:
        known = " or ".join(repr(name) for name in BUILDERS)
        raise IntegrityError(f"{path}: kind is {_short(kind)} instead of {known}; build the shards again")
    return str(kind)


def read_document(
    directory: str | os.PathLike[str],
    kind: str,
    names: Sequence[str],
    optional: Sequence[str] = (),
    named: str | None = None,
) -> "Fields":
    """The index of shards of that kind, with exactly these keys and any of the optional ones.

    named: what messages call the directory, where it is the copy of one by URL.

    Raises:
        UserError: `directory` does not exist, is not a shard directory, or holds shards of another kind.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    path, document = _load(directory, kind, named)
    if isinstance(document, dict):
        if document.get("format_version", 1) != FORMAT_VERSION:
            found = _short(document["format_version"])
            raise IntegrityError(
                f"{path}: format_version {found} is not known; this version reads {FORMAT_VERSION}"
            )
        other = document.get("kind")
        if isinstance(other, str) and other != kind and other in BUILDERS:
            raise UserError(
                f"{named or directory}: holds {other}, not {kind}; `{BUILDERS[kind]}` makes shards of {kind}"
            )
    given = tuple(name for name in optional if isinstance(document, dict) and name in document)
    fields = Fields(path, "", document, (*names, *given))
    fields.text("kind", re.compile(kind), repr(kind))
    return fields


def _load(place: str | os.PathLike[str], kind: str | None, named: str | None) -> tuple[str, Any]:
    directory = Path(place)
    path = f"{(named or str(directory)).rstrip('/')}/{INDEX_NAME}"
    try:
        raw = read_bytes(directory / INDEX_NAME, INDEX_BYTES)
    except FileNotFoundError:
        _explain_missing(directory, kind)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    check_index_size(path, raw)
    try:
        return path, parse_json(raw)
    except ValueError as error:
        raise IntegrityError(f"{path}: is not an index: {error}; build the shards again") from None


def check_index_size(path: str | os.PathLike[str], raw: bytes) -> None:
    """Raise UserError for an index with too many bytes, or too many values to hold in memory."""
    memory = raw.count(b",") * VALUE_BYTES + (raw.count(b"[") + raw.count(b"{")) * CONTAINER_BYTES
    for found, limit, what in (
        (len(raw), INDEX_BYTES, "bytes"),
        (memory, INDEX_MEMORY, "bytes of memory for its values"),
    ):
        if found > limit:
            raise UserError(
                f"{path}: {found:,} {what} are more than the {limit:,} allowed for an index; divide the data "
                "between several shard directories, which data.train can list"
            )


def _explain_missing(directory: Path, kind: str | None) -> NoReturn:
    makers = [f"`{command}`" for name, command in BUILDERS.items() if kind in (None, name)]
    made_by = " or ".join(makers)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such directory; a shard directory is made by {made_by}")
    if (directory / WORK_DIR).exists():
        raise IntegrityError(
            f"{directory}: this build is not finished; run the same {made_by} again to go on"
        )
    if any(directory.glob("*.tar")):
        raise IntegrityError(
            f"{directory}: there are shards but no {INDEX_NAME}; copy it over or build the shards again"
        )
    raise UserError(f"{directory}: not a shard directory (no {INDEX_NAME}); {made_by} makes one")


class Fields:
    """One JSON object of the index, parsed with checks.

    Errors name the location, as in `shards[3].size`.
    """

    def __init__(self, path: str, where: str, value: Any, names: tuple[str, ...]) -> None:
        self.path, self.where = path, where
        if not isinstance(value, dict):
            self.fail("", f"is {_short(value)} instead of an object")
        if set(value) != set(names):
            odd = sorted(set(value) ^ set(names))
            self.fail("", f"has missing or unknown keys: {', '.join(_short(key) for key in odd[:5])}")
        self.value: dict[str, Any] = value

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise the IntegrityError for a key."""
        location = ".".join(part for part in (self.where, key) if part) or "the index"
        raise IntegrityError(
            f"{self.path}: {location} {problem}; the index is damaged or foreign, build the shards again"
        )

    def integer(self, key: str, low: int, high: int | None = None) -> int:
        """The whole number under a key, within `low` to `high`."""
        value = self.value[key]
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(key, f"is {_short(value)} instead of an integer")
        if value < low or (high is not None and value > high):
            self.fail(key, f"is {_short(value)}, outside {low} to {high if high is not None else 'any'}")
        return value

    def text(self, key: str, pattern: re.Pattern[str], meaning: str) -> str:
        """The text under a key; `meaning` describes the pattern in words."""
        value = self.value[key]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.fail(key, f"is {_short(value)} instead of {meaning}")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.value[key]
        if not isinstance(value, list):
            self.fail(key, f"is {_short(value)} instead of a list")
        return value

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """The list of whole numbers under a key, each within `low` to `high`."""
        values = self.items(key)
        for number, value in enumerate(values):
            if type(value) is not int or not low <= value <= high:
                self.fail(f"{key}[{number}]", f"is {_short(value)} instead of a number from {low} to {high}")
        return tuple(values)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
