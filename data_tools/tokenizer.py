"""Tokenizers: text to token ids and back, whoever made them.

tokenizer = Tokenizer.load(path)       # a folder or a file: ours, or any kind of `tokenizers/registry.py`
tokenizer = Tokenizer.load(hf_folder, rows=config.vocab_size)    # at an import; more ids are refused
tokenizer.encode(text)                 # special tokens that are written in the text are text
tokenizer.decode(ids); tokenizer.vocab_size; tokenizer.fingerprint
tokenizer.eod_id; tokenizer.begin_ids; tokenizer.bert_ids; tokenizer.special
tokenizer.loss                         # a text that does not come back, for messages; "" if all do
tokenizer.save(folder)                 # for `Tokenizer.load`; shards and checkpoints hold such a folder
tokenizer.write_original(folder)       # the files that it was read from, byte for byte
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.atomic import write_atomically
from data_tools.bounded import read_bytes, read_json
from data_tools.errors import IntegrityError, UserError, named, printable
from data_tools.tokenizers.codec import MALFORMED, Codec, ForeignCodec, Offsets, Settings
from data_tools.tokenizers.codec import BertIds as BertIds
from data_tools.tokenizers.codec import Ids as Ids
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


class Tokenizer:
    """Text to token ids and back; made by `Tokenizer.load`, `byte_tokenizer` or `train_tokenizer`."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.vocab_size = len(codec.pieces)
        self.eod_id = codec.roles.eod
        self.begin_ids = codec.roles.begin
        """What its own library puts before each text, such as the <|begin_of_text|> of Llama 3."""
        self.bert_ids: BertIds | None = codec.roles.bert
        """The ids of BERT's special pieces; None in a tokenizer without them."""
        self.special: Mapping[str, int] = codec.roles.special
        """Ids that no text is encoded into, by the names that a chat template may write; empty for ours."""

    @property
    def model_type(self) -> str:
        """The kind of tokenizer, such as bpe or huggingface."""
        return self.codec.kind

    @property
    def is_ours(self) -> bool:
        """Whether `pretrain data tokenizer` made it."""
        return isinstance(self.codec, OwnCodec)

    @property
    def model(self) -> bytes:
        """The sentencepiece model of one of ours."""
        return self.codec.files.get(MODEL, b"")

    @property
    def loss(self) -> str:
        """A text that does not come back byte for byte, and what becomes of it; empty if all texts do."""
        return self.codec.loss

    @property
    def roles(self) -> str:
        """The special ids that have a use, for people."""
        ids = {"end of document": str(self.eod_id)}
        if self.begin_ids:
            ids["before a text"] = " ".join(map(str, self.begin_ids))
        if self.bert_ids:
            ids |= {f"[{name.upper()}]": str(value) for name, value in asdict(self.bert_ids).items()}
        return ", ".join(f"{name} {value}" for name, value in ids.items())

    @property
    def facts(self) -> dict[str, str]:
        """What a result says of it."""
        return {
            "tokenizer_fingerprint": self.fingerprint,
            **({"tokenizer_loss": self.loss} if self.loss else {}),
        }

    @cached_property
    def piece_lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Bytes of each id, shape [vocab_size]; 0 for special ones."""
        return np.array([len(piece) for piece in self.codec.pieces], np.int64)

    @cached_property
    def word_edges(self) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
        """Which ids begin with whitespace, and which end with it: bool [vocab_size] each."""
        spaces = {b" ", b"\n", b"\t", b"\r"}
        begins = np.array([piece[:1] in spaces for piece in self.codec.pieces])
        return begins, np.array([piece[-1:] in spaces for piece in self.codec.pieces])

    @cached_property
    def fingerprint(self) -> str:
        """A sha256; tokenizers with the same one give the same ids to every text.

        That of a tokenizer that was made elsewhere is the hash of the file that defines it.
        """
        return self.codec.fingerprint

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never contains `eod_id`.

        Raises UserError for text that is not Unicode (lone surrogates).
        """
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_array(self, text: str) -> Ids:
        """The ids of a text as an int32 array of shape [tokens]."""
        parts = [self.encode_segment(segment) for segment in self.segments([text])]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int32), *parts])

    def segments(self, parts: Iterable[str]) -> Iterator[str]:
        """A text, which may arrive in parts, cut into pieces to encode one by one."""
        return self.codec.segments(parts)

    def encode_segment(self, text: str) -> Ids:
        """The ids of one segment from `segments`, shape [tokens]."""
        try:
            return self.codec.encode(text)
        except UnicodeEncodeError as error:
            raise UserError(f"text is not valid Unicode: {error.reason} at character {error.start}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.codec,)

    def token_starts(self, text: str, ids: Ids) -> Offsets:
        """The byte at which each of the ids of a segment begins in it, shape [tokens]."""
        return self.codec.token_starts(text, ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids give nothing, bytes that are not UTF-8 give U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], *, begins: bool = False) -> bytes:
        """The UTF-8 bytes of ids. Raises UserError for an id outside the vocabulary.

        begins: they are the first ones of a text.
        """
        pieces, parts = self.codec.pieces, []
        for value in ids:
            if not 0 <= value < len(pieces):
                raise UserError(f"token id {value} is outside the vocabulary of {len(pieces)}")
            parts.append(pieces[value])
        found = b"".join(parts)
        return found.removeprefix(b" ") if begins and self.codec.drops_space else found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer into a directory, which is made if needed."""
        directory, codec = Path(path), self.codec
        self.write_original(directory if self.is_ours else directory / ORIGINAL)
        description = {
            "format_version": FORMAT_VERSION,
            "type": codec.kind,
            "vocab_size": self.vocab_size,
            "eod_id": self.eod_id,
            "fingerprint": self.fingerprint,
        }
        if isinstance(codec, ForeignCodec):
            hashes = {name: hashlib.sha256(content).hexdigest() for name, content in codec.files.items()}
            description |= {"main": codec.name, "files": hashes, "settings": asdict(codec.settings)}
        write_atomically(directory / DESCRIPTION, json.dumps(description, indent=1) + "\n")

    def write_original(self, directory: Path) -> None:
        """Write the files that it was read from, byte for byte."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.codec.files.items():
            try:
                with named(directory / name):
                    (directory / name).write_bytes(content)
            except OSError:
                (directory / name).unlink(missing_ok=True)
                raise

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        end_of_document: str | None = None,
        encoding: str | None = None,
        rows: int | None = None,
    ) -> "Tokenizer":
        """Read a tokenizer: a directory of ours, or a file or folder that was made elsewhere.

        Args:
            path: of the directory or the file.
            end_of_document: name of the special token that ends a document, instead of what its files say.
            encoding: of a tiktoken file, whose pattern it is for.
            rows: of the embedding that it is for; ids that it has not stand for no text.

        Raises:
            UserError: it does not exist, or is no tokenizer that can be used.
            IntegrityError: the files of a directory of ours do not belong together or are damaged.
        """
        place = Path(path)
        description = _read_description(place.parent if place.name == DESCRIPTION else place)
        if description is None:
            return _open_foreign(place, end_of_document, Settings(encoding=encoding, rows=rows))
        if end_of_document or encoding:
            option = "--end-of-document" if end_of_document else "--encoding"
            raise UserError(f"{option}: has no effect on {place}, where this is settled")
        directory = place.parent if place.name == DESCRIPTION else place
        tokenizer = cls(_saved_codec(directory, description))
        for key in ("vocab_size", "eod_id", "fingerprint"):
            if getattr(tokenizer, key) != description[key]:
                raise IntegrityError(
                    f"{directory}: the model's {key} is {getattr(tokenizer, key)}, but tokenizer.json "
                    f"says {description[key]!r}; {REMEDY}"
                )
        return tokenizer


def byte_tokenizer() -> Tokenizer:
    """The tokenizer of 256 bytes and the end-of-document token."""
    return Tokenizer(OwnCodec("byte", b""))


def own_tokenizer(model_type: str, model: bytes) -> Tokenizer:
    """One of ours, from the bytes of a sentencepiece model."""
    return Tokenizer(OwnCodec(model_type, model))


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


def _open_foreign(path: Path, end_of_document: str | None, settings: Settings) -> Tokenizer:
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
    return Tokenizer(codec)


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
    raise UserError(
        f"{path}: not a tokenizer directory or file ({why}); `pretrain data tokenizer` makes one"
    )


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
