"""What every `index.json` has in common: how it is written, found, read and parsed with checks.

The index is written last and atomically, so its presence means that the build finished. `kind` says what the
shards hold. `fingerprint` is the sha256 over everything else in the file, so any edit, damage or mix-up in
the index is found when it is read.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, Protocol, TypeVar

from pydantic import AfterValidator, Field

from data_tools.atomic import write_atomically
from data_tools.bounded import parse_json, read_bytes
from data_tools.errors import IntegrityError, UserError
from data_tools.typed import typed

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


def _plain(name: str) -> str:
    if not SHARD_NAME.fullmatch(name):
        raise ValueError("must be a plain file name such as '000000-000.tar'")
    return name


ShardName = Annotated[str, AfterValidator(_plain)]
Sha256 = Annotated[str, Field(pattern=f"^{HEX_DIGEST.pattern}$")]
Positive = Annotated[int, Field(ge=1, lt=1 << 53)]
Offset = Annotated[int, Field(ge=512, lt=1 << 53)]
"""Of data in a tar, whose first block is a header."""


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


class Index:
    """The index of one kind of shards; each kind is a dataclass with these fields and more."""

    KIND: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]
    shards: tuple[Any, ...]
    fingerprint: str

    def fault(self) -> str | None:
        """What does not fit together in an index whose values are all legal; None if everything does."""
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Index)


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


def read_index_file(directory: str | os.PathLike[str], kind: type[Kind], named: str | None = None) -> Kind:
    """The index of shards of that kind.

    named: what messages call the directory, where it is the copy of one by URL.

    Raises:
        UserError: `directory` does not exist, is not a shard directory, or holds shards of another kind.
        IntegrityError: the build did not finish, or the index is damaged.
    """
    path, document = _load(directory, kind.KIND, named)
    try:
        if isinstance(document, dict):
            if document.get("format_version", 1) != FORMAT_VERSION:
                found = _short(document["format_version"])
                raise ValueError(f"format_version {found} is not known; this version reads {FORMAT_VERSION}")
            other = document.get("kind")
            if isinstance(other, str) and other != kind.KIND and other in BUILDERS:
                raise UserError(
                    f"{named or directory}: holds {other}, not {kind.KIND}; `{BUILDERS[kind.KIND]}` makes "
                    f"shards of {kind.KIND}"
                )
        index = typed(kind, document)
        names = {shard.name for shard in index.shards}
        fault = "shards: names a shard twice" if len(names) != len(index.shards) else index.fault()
        content = {key: value for key, value in document.items() if key != "fingerprint"}
        if content_fingerprint(content) != index.fingerprint:
            fault = fault or "fingerprint: does not fit the rest of the index"
        if fault:
            raise ValueError(fault)
    except ValueError as error:
        raise IntegrityError(
            f"{path}: {error}; the index is damaged or foreign, build the shards again"
        ) from None
    return index


def write_index_file(directory: Path, index: Index, **style: Any) -> None:
    """Write `index.json` atomically: it is there in full or not at all; `style` as for `json.dumps`."""
    text = json.dumps({**_content(index), "fingerprint": index.fingerprint}, **style) + "\n"
    check_index_size(directory / INDEX_NAME, text.encode())
    write_atomically(directory / INDEX_NAME, text)


def sealed(draft: Kind) -> Kind:
    """An index with its fingerprint."""
    return replace(draft, fingerprint=content_fingerprint(_content(draft)))


def _content(index: Index) -> dict[str, Any]:
    """What the fingerprint covers; keys without a value are not in the file."""
    content = asdict(index, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None})
    del content["fingerprint"]
    return content


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


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
