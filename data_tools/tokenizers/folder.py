"""Where the files of a tokenizer are: a directory of ours, or a file or folder that was made elsewhere."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_tools.atomic import write_atomically
from data_tools.bounded import read_bytes, read_json
from data_tools.errors import IntegrityError, UserError, named, printable
from data_tools.tokenizers.codec import MALFORMED, Codec, ForeignCodec, Settings
from data_tools.tokenizers.own import FORMAT_VERSION, MODEL, MODEL_BYTES, MODEL_TYPES, OwnCodec
from data_tools.tokenizers.registry import KINDS
from data_tools.tokenizers.trial import try_out
from data_tools.typed import misread, typed

DESCRIPTION = "tokenizer.json"
"""What `Tokenizer.save` writes last."""
ORIGINAL = "original"
"""Folder beside it with the files of a tokenizer that was made elsewhere."""
LARGEST_FILE = 1 << 27
"""Bytes; the largest known file, with 256 thousand ids, has a quarter of it."""
REMEDY = "copy the tokenizer again or train a new one"


def open_codec(place: Path, end_of_document: str | None, settings: Settings) -> Codec:
    """Read a tokenizer; arguments and errors as for `Tokenizer.load`."""
    directory = place.parent if place.name == DESCRIPTION else place
    description = _read_description(directory)
    if description is None:
        return _open_foreign(place, end_of_document, settings)
    if end_of_document or settings.encoding:
        option = "--end-of-document" if end_of_document else "--encoding"
        raise UserError(f"{option}: has no effect on {place}, where this is settled")
    codec = _saved_codec(directory, description)
    found = {"vocab_size": len(codec.pieces), "eod_id": codec.roles.eod, "fingerprint": codec.fingerprint}
    for key, value in found.items():
        if value != description[key]:
            raise IntegrityError(
                f"{directory}: the model's {key} is {value}, but tokenizer.json says {description[key]!r}; "
                f"{REMEDY}"
            )
    return codec


def save_codec(codec: Codec, directory: Path) -> None:
    """Write a directory of ours, which is made if needed."""
    write_original(codec, directory / ORIGINAL if isinstance(codec, ForeignCodec) else directory)
    description = {
        "format_version": FORMAT_VERSION,
        "type": codec.kind,
        "vocab_size": len(codec.pieces),
        "eod_id": codec.roles.eod,
        "fingerprint": codec.fingerprint,
    }
    if isinstance(codec, ForeignCodec):
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in codec.files.items()}
        description |= {"main": codec.name, "files": hashes, "settings": asdict(codec.settings)}
    write_atomically(directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def write_original(codec: Codec, directory: Path) -> None:
    """Write the files that it was read from, byte for byte."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in codec.files.items():
        try:
            with named(directory / name):
                (directory / name).write_bytes(content)
        except OSError:
            (directory / name).unlink(missing_ok=True)
            raise


def stored_files(description: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that belong to a description, relative to its folder."""
    files = description.get("files")
    if isinstance(files, dict):
        return tuple(f"{ORIGINAL}/{name}" for name in files)
    return () if description.get("type") == "byte" else (MODEL,)


def _saved_codec(directory: Path, description: Mapping[str, Any]) -> Codec:
    """What `Tokenizer.save` wrote. Raises IntegrityError."""
    contents: dict[str, bytes] = {}
    for name in stored_files(description):
        try:
            contents[name.removeprefix(f"{ORIGINAL}/")] = read_bytes(
                directory / name, LARGEST_FILE if "files" in description else MODEL_BYTES
            )
        except OSError as error:
            raise IntegrityError(f"{directory}/{name}: cannot be read: {error.strerror}") from None
    try:
        if description["type"] in MODEL_TYPES:
            return OwnCodec(description["type"], contents.get(MODEL, b""))
        for name, digest in description["files"].items():
            if hashlib.sha256(contents[name]).hexdigest() != digest:
                raise IntegrityError(f"{directory}/{ORIGINAL}/{name}: has changed; {REMEDY}")
        kind = next(kind for kind in KINDS if kind.kind == description["type"])
        return kind(description["main"], contents, typed(Settings, description["settings"]))
    except IntegrityError:
        raise
    except (RuntimeError, OSError, UserError, *MALFORMED) as error:
        where = MODEL if description["type"] in MODEL_TYPES else DESCRIPTION
        raise IntegrityError(f"{directory}/{where}: is damaged: {error}; {REMEDY}") from None


def _open_foreign(path: Path, end_of_document: str | None, settings: Settings) -> ForeignCodec:
    """Read a tokenizer for the first time, and try it on texts."""
    kind, main = _foreign_file(path)
    if settings.encoding and not kind.TAKES_ENCODING:
        raise UserError(
            f"--encoding {settings.encoding}: has an effect on ranks of tiktoken alone, not on {main}"
        )
    beside = (*kind.BESIDE, *kind.HINTS) if kind.in_folder(main.name) else ()
    stored = kind.MAIN or main.name
    try:
        files = {stored: read_bytes(main, LARGEST_FILE)}
        files |= {
            name: read_bytes(main.with_name(name), LARGEST_FILE)
            for name in beside
            if name != stored and main.with_name(name).is_file()
        }
    except OSError as error:
        raise UserError(f"{error.filename or main}: cannot be read: {error.strerror}") from None
    try:
        codec = kind(stored, files, settings, end_of_document)
        try_out(codec)
    except UserError as error:
        raise UserError(f"{main}: {error}") from None
    except MALFORMED as error:
        raise UserError(f"{main}: is no {kind.kind} tokenizer: {printable(misread(error))}") from None
    return codec


def _foreign_file(path: Path) -> tuple[type[ForeignCodec], Path]:
    """The kind of a tokenizer and the file that defines it. Raises UserError if there is none."""
    if path.is_dir():
        for kind in KINDS:
            if found := sorted(each for each in path.iterdir() if kind.in_folder(each.name)):
                return kind, found[0]
    elif path.exists():
        for kind in KINDS:
            if path.name.endswith(kind.ENDING):
                return kind, path
    known = ", ".join(f"*{kind.ENDING}" for kind in KINDS)
    why = f"holds no {known}" if path.exists() else "no such file or folder"
    raise UserError(f"{path}: not a tokenizer directory or file ({why}); `pretrain data tokenizer` makes one")


def _read_description(directory: Path) -> dict[str, Any] | None:
    """What `Tokenizer.save` wrote; None if there is nothing of it."""
    path = directory / DESCRIPTION
    try:
        description = read_json(path, LARGEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(description, dict) or "format_version" not in description:
        return None
    keys = {"format_version", "type", "vocab_size", "eod_id", "fingerprint"}
    if description["format_version"] != FORMAT_VERSION:
        raise IntegrityError(
            f"{path}: format_version {description['format_version']!r}; known is {FORMAT_VERSION}"
        )
    kinds = (*MODEL_TYPES, *(kind.kind for kind in KINDS))
    if description.get("type") not in kinds:
        raise IntegrityError(f"{path}: type {description.get('type')!r}; known are {', '.join(kinds)}")
    if description["type"] not in MODEL_TYPES:
        keys |= {"main", "files", "settings"}
    files = description.get("files", {})
    plain = isinstance(files, dict) and all(Path(name).name == name not in ("", "..") for name in files)
    if set(description) != keys or not plain:
        raise IntegrityError(f"{path}: must hold exactly the keys {', '.join(sorted(keys))}")
    return description
