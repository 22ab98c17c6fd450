"""`manifest.json`, written last: every file's size and checksum. A folder without it is not a checkpoint.

The manifest includes the checksum of its own content in canonical form, so a flipped byte in the manifest
itself is found as reliably as one in a file that it lists.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.bounded import parse_json
from data_tools.typed import misread, natural, typed
from pretrain.checkpoint.files import FileRecord, file_record, walk
from pretrain.checkpoint.index import coverage_fault, parse
from pretrain.checkpoint.layout import INDEX, MANIFEST, STATE, step_name, step_of
from pretrain.checkpoint.tensors import foreign, read_header
from pretrain.errors import IntegrityError

FORMAT = "pretrain-checkpoint"
VERSION = 1
KEYS = {"format", "format_version", "step", "files"}
"""Beside its checksum."""


@dataclass(frozen=True)
class Fault:
    """Something in a checkpoint that is not as it was written."""

    file: str
    """Path within the checkpoint; empty for the checkpoint as a whole."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" if self.file else self.what


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`: all files of a checkpoint."""

    step: int
    files: Mapping[str, FileRecord]
    """By path relative to the checkpoint, with forward slashes."""
    fingerprint: str
    """SHA-256 over all of it; equal fingerprints mean equal files."""


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def dump_manifest(step: int, files: Mapping[str, FileRecord]) -> bytes:
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "step": step,
        "files": {name: {"size": record.size, "sha256": record.sha256} for name, record in files.items()},
    }
    return _canonical({**content, "sha256": hashlib.sha256(_canonical(content)).hexdigest()})


def parse_manifest(text: bytes) -> Manifest:
    """Read manifest.json; ValueError says what is wrong with it."""
    try:
        content = parse_json(text)
        digest = content.pop("sha256")
        if content.keys() != KEYS:
            raise ValueError(f"its keys are not {', '.join(sorted(KEYS))}")
        kind, version = content["format"], content["format_version"]
        files = {name: typed(FileRecord, entry) for name, entry in content["files"].items()}
        step = natural(content["step"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a manifest: {misread(error)}") from error
    if kind != FORMAT or version != VERSION:
        found = f"{kind!r:.60} version {version!r:.60}"
        raise ValueError(f"is {found}; this program reads {FORMAT} version {VERSION}")
    expected = hashlib.sha256(_canonical(content)).hexdigest()
    if digest != expected or text != _canonical({**content, "sha256": digest}):
        raise ValueError("its content does not match its own checksum")
    for name in files:
        if problem := name_problem(name):
            raise ValueError(f"lists {name!r}, {problem}")
    return Manifest(step, files, expected)


def name_problem(name: str) -> str | None:
    """Why a relative path is not allowed in a checkpoint, or None."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "which reaches outside of the checkpoint"
    if not name or str(path) != name or name == MANIFEST:
        return "which is not a plain relative path"
    return None


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint at `path`. Raises IntegrityError: it is missing or damaged."""
    where = path / MANIFEST
    try:
        if where.is_symlink():
            raise IntegrityError(f"{where}: is a symlink; a checkpoint holds plain files")
        return parse_manifest(where.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{where}: missing, so this is not a finished checkpoint") from None
    except ValueError as error:
        raise IntegrityError(f"{where}: {error}") from None
    except OSError as error:
        raise IntegrityError(f"{where}: cannot be read: {error.strerror}") from None


CheckFiles = Callable[[Path], "list[Fault]"]
"""Finds what is wrong with the contents of the files in a manifest."""


def check_files(path: Path, part: int = 0, parts: int = 1) -> list[Fault]:
    """What is wrong with the files of a manifest that can be read, or with one of several parts of them.

    Reads every byte of these files once, in one thread per core, up to 8.
    """
    files = read_manifest(path).files
    # Large files first, so that no single thread or part is left with one at the end.
    names = sorted(files, key=lambda name: (-files[name].size, name))[part::parts]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [fault for fault in pool.map(lambda name: _check(path, name, files[name]), names) if fault]


def verify(path: Path | str, check: CheckFiles = check_files) -> list[Fault]:
    """Everything that is wrong with the checkpoint folder `path`; empty: it is what was written.

    `check`: reads every byte.
    """
    try:
        return _faults(Path(path), check)
    except OSError as error:
        return [Fault("", f"{error.filename or path} cannot be read: {error.strerror or error}")]


def _faults(path: Path, check: CheckFiles) -> list[Fault]:
    if path.is_symlink() or not path.is_dir():
        return [Fault("", _not_a_folder(path))]
    try:
        manifest = read_manifest(path)
    except IntegrityError as error:
        return [Fault(MANIFEST, str(error).removeprefix(f"{path / MANIFEST}: ")), *_pickles(path)]
    named_step = step_of(path.name)
    faults = []
    if named_step is not None and named_step != manifest.step:
        faults.append(
            Fault("", f"the folder is named {path.name} but was written as {step_name(manifest.step)}")
        )
    faults += _unexpected(path, manifest)
    faults += check(path)
    return faults or _structure(path, manifest)


def _not_a_folder(path: Path) -> str:
    if path.is_symlink():
        return "is a symlink; a checkpoint is a folder"
    if not path.exists():
        return "does not exist"
    return foreign(path) or "is a file; a checkpoint is a folder"


def _check(path: Path, name: str, expected: FileRecord) -> Fault | None:
    file = path / name
    try:
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode):
            kind = "a symlink" if stat.S_ISLNK(status.st_mode) else "not a plain file"
            return Fault(name, f"is {kind}; a checkpoint holds plain files")
        if status.st_size != expected.size:
            cause = _pickle_note(file) or ", so it was cut off" * (status.st_size < expected.size)
            return Fault(name, f"{status.st_size} bytes, {expected.size} were written{cause}")
        if file_record(file).sha256 != expected.sha256:
            return Fault(name, "content does not match its checksum" + _pickle_note(file))
    except FileNotFoundError:
        return Fault(name, f"missing; {expected.size} bytes were written")
    except OSError as error:
        return Fault(name, f"cannot be read: {error.strerror}")
    return None


def _unexpected(path: Path, manifest: Manifest) -> list[Fault]:
    names = (file.relative_to(path).as_posix() for file in walk(path))
    return [
        Fault(name, "is not part of the checkpoint" + _pickle_note(path / name))
        for name in names
        if name != MANIFEST and name not in manifest.files
    ]


def _pickle_note(path: Path) -> str:
    try:
        kind = foreign(path) if path.is_file() else None
    except OSError:
        kind = None
    return f"; it is {kind}" if kind else ""


def _pickles(path: Path) -> list[Fault]:
    notes = ((file.relative_to(path).as_posix(), _pickle_note(file)) for file in walk(path))
    return [Fault(name, note.removeprefix("; it ")) for name, note in notes if note]


def _structure(path: Path, manifest: Manifest) -> list[Fault]:
    """What is wrong with a checkpoint whose files are all as written: only a foreign writer can cause
    this."""
    missing = [
        Fault(name, "is not listed in the manifest") for name in (INDEX, STATE) if name not in manifest.files
    ]
    if missing:
        return missing
    try:
        index = parse((path / INDEX).read_bytes(), INDEX)
        if fault := coverage_fault(index):
            return [Fault(INDEX, fault)]
        named = {shard.file for tensor in index.values() for shard in tensor.shards}
        if unlisted := sorted(named - manifest.files.keys()):
            return [Fault(unlisted[0], f"is named in {INDEX} but not listed in the manifest")]
        headers = {name: read_header(path / name) for name in sorted(named)}
    except IntegrityError as error:
        return [Fault(INDEX, str(error))]
    for tensor in index.values():
        for shard in tensor.shards:
            entry = headers[shard.file].get(shard.name)
            expected = shard.extent.shape if shard.extent.flat is None else (shard.extent.size,)
            if entry is None or (entry.dtype, entry.shape) != (tensor.dtype, expected):
                found = "is not there" if entry is None else f"is {list(entry.shape)} {entry.dtype}"
                return [
                    Fault(shard.file, f"{shard.name} {found}, {INDEX} has {list(expected)} {tensor.dtype}")
                ]
    return []
