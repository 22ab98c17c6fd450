"""Tokenizers that give every text back byte for byte.

Three are sentencepiece models (bpe, unigram, char) trained without any normalisation and with a token for
each byte; the fourth, `byte`, is the 256 bytes alone. sentencepiece writes a space as U+2581, and would read
a U+2581 in the text as a space; here such a character is always encoded as its three bytes. Decoding is our
own: a table from id to bytes.

A long text is cut into segments before it is encoded. This bounds memory and is also faster, since the cost
of byte-pair merging grows with the length. The rule of the cut depends on the text alone and so is part of
the tokenizer: a text gives the same tokens however it is divided when it arrives.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.atomic import write_atomically
from data_tools.bounded import read_bytes, read_json
from data_tools.errors import IntegrityError, UserError, named

FORMAT_VERSION = 1
MODEL_TYPES = ("bpe", "unigram", "char", "byte")
SEGMENT_CHARACTERS = 512
SPACE_SYMBOL = "\u2581"
MODEL_BYTES = 64 << 20
"""Size limit of a sentencepiece model; one with 256,000 pieces takes 5 MB."""
BERT_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
Ids = np.ndarray[Any, np.dtype[np.int32]]


def segments(parts: Iterable[str]) -> Iterator[str]:
    """Cut a text, which may arrive in parts, into segments of at most `SEGMENT_CHARACTERS`.

    A segment ends after the last newline within the limit, else before the last space that follows another
    character, else (one endless word) at the limit. The cuts do not depend on how the text was divided into
    parts.
    """
    buffer, position = "", 0
    for part in parts:
        buffer, position = buffer[position:] + part, 0
        while len(buffer) - position > SEGMENT_CHARACTERS:
            end = _cut(buffer, position)
            yield buffer[position:end]
            position = end
    if position < len(buffer):
        yield buffer[position:]


def _cut(text: str, start: int) -> int:
    limit = start + SEGMENT_CHARACTERS
    newline = text.rfind("\n", start, limit)
    if newline >= start:
        return newline + 1
    space = text.rfind(" ", start + 1, limit)
    while space > start and text[space - 1] == " ":
        space -= 1
    return space if space > start else limit


@dataclass(frozen=True)
class BertIds:
    """The ids of the pieces that BERT needs beside those of text (Devlin et al. 2019, section 3)."""

    pad: int
    cls: int
    sep: int
    mask: int


class Tokenizer:
    """Text to token ids and back; made by `Tokenizer.load`, `byte_tokenizer` or `train_tokenizer`."""

    def __init__(self, model_type: str, model: bytes) -> None:
        """Set up from the bytes of a sentencepiece model; `byte` has none."""
        if model_type not in MODEL_TYPES:
            raise UserError(f"model type {model_type!r}; known are {', '.join(MODEL_TYPES)}")
        self.model_type = model_type
        self.model = model
        if model_type == "byte":
            self._pieces = [bytes([value]) for value in range(256)] + [b""]
            self.eod_id = 256
        else:
            self._processor, self._pieces, self.eod_id = _open_model(model)
        self.vocab_size = len(self._pieces)

    @cached_property
    def bert_ids(self) -> BertIds | None:
        """The ids of BERT's special pieces; None in a tokenizer without them.

        They are control pieces: no text is ever encoded into one.
        """
        if self.model_type == "byte":
            return None
        ids = [self._processor.piece_to_id(piece) for piece in BERT_PIECES]
        return BertIds(*ids) if all(self._processor.is_control(value) for value in ids) else None

    @cached_property
    def piece_lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Bytes of each id, shape [vocab_size]; 0 for special ones."""
        return np.array([len(piece) for piece in self._pieces], np.int64)

    @cached_property
    def word_edges(self) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
        """Which ids begin with whitespace, and which end with it: bool [vocab_size] each."""
        spaces = {b" ", b"\n", b"\t", b"\r"}
        begins = np.array([piece[:1] in spaces for piece in self._pieces])
        return begins, np.array([piece[-1:] in spaces for piece in self._pieces])

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of what defines the tokenizer: its type, its model and the rule of the segments."""
        description = {
            "format_version": FORMAT_VERSION,
            "type": self.model_type,
            "vocab_size": self.vocab_size,
            "eod_id": self.eod_id,
            "segment_characters": SEGMENT_CHARACTERS,
            "model_sha256": hashlib.sha256(self.model).hexdigest(),
        }
        return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()

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
        if len(text) <= SEGMENT_CHARACTERS:
            return self.encode_segment(text)
        return np.concatenate([self.encode_segment(segment) for segment in segments([text])])

    def encode_segment(self, text: str) -> Ids:
        """The ids of one segment from `segments`, shape [tokens]."""
        try:
            if self.model_type == "byte":
                return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
            if SPACE_SYMBOL in text:
                parts: list[Ids] = []
                for part in text.split(SPACE_SYMBOL):
                    parts += [self._space_symbol, self._encode_plain(part)]
                return np.concatenate(parts[1:])
            return self._encode_plain(text)
        except UnicodeEncodeError as error:
            raise UserError(f"text is not valid Unicode: {error.reason} at character {error.start}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special ids give nothing, bytes that are not UTF-8 give U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of ids. Raises UserError for an id outside the vocabulary."""
        pieces, parts = self._pieces, []
        for value in ids:
            if not 0 <= value < len(pieces):
                raise UserError(f"token id {value} is outside the vocabulary of {len(pieces)}")
            parts.append(pieces[value])
        return b"".join(parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer into a directory, which is made if needed."""
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        if self.model_type != "byte":
            model = directory / "tokenizer.model"
            try:
                with named(model):
                    model.write_bytes(self.model)
            except OSError:
                model.unlink(missing_ok=True)
                raise
        description = {
            "format_version": FORMAT_VERSION,
            "type": self.model_type,
            "vocab_size": self.vocab_size,
            "eod_id": self.eod_id,
            "fingerprint": self.fingerprint,
        }
        write_atomically(directory / "tokenizer.json", json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a tokenizer directory.

        Raises:
            UserError: it does not exist, or is not a tokenizer directory.
            IntegrityError: its files do not belong together or are damaged.
        """
        directory = Path(path)
        description = _read_description(directory)
        model = b""
        if description["type"] != "byte":
            try:
                model = read_bytes(directory / "tokenizer.model", MODEL_BYTES)
            except OSError as error:
                raise IntegrityError(
                    f"{directory}/tokenizer.model: cannot be read: {error.strerror}"
                ) from None
        remedy = "copy the tokenizer again or train a new one"
        try:
            tokenizer = cls(description["type"], model)
        except (RuntimeError, ValueError, OSError) as error:
            raise IntegrityError(f"{directory}/tokenizer.model: is damaged: {error}; {remedy}") from None
        for key in ("vocab_size", "eod_id", "fingerprint"):
            if getattr(tokenizer, key) != description[key]:
                raise IntegrityError(
                    f"{directory}: the model's {key} is {getattr(tokenizer, key)}, but tokenizer.json "
                    f"says {description[key]!r}; {remedy}"
                )
        return tokenizer

    @cached_property
    def _space_symbol(self) -> Ids:
        ids = [self._pieces.index(bytes([value])) for value in SPACE_SYMBOL.encode("utf-8")]
        return np.array(ids, np.int32)

    def _encode_plain(self, text: str) -> Ids:
        ids: Ids = self._processor.encode(text.encode("utf-8"), return_type="numpy")
        return ids


def byte_tokenizer() -> Tokenizer:
    """The tokenizer of 256 bytes and the end-of-document token."""
    return Tokenizer("byte", b"")


def _open_model(model: bytes) -> tuple[Any, list[bytes], int]:
    """A sentencepiece processor, the bytes of each id and the id of the end of a document."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = []
    for value in range(processor.vocab_size()):
        piece: str = processor.id_to_piece(value)
        if processor.is_byte(value):
            pieces.append(bytes([int(piece[3:5], 16)]))
        elif processor.is_control(value) or processor.is_unknown(value):
            pieces.append(b"")
        else:
            pieces.append(piece.replace(SPACE_SYMBOL, " ").encode("utf-8"))
    if processor.eos_id() < 0 or len({piece for piece in pieces if len(piece) == 1}) < 256:
        raise ValueError("it has no end-of-document piece or not all 256 byte pieces")
    return processor, pieces, processor.eos_id()


def _read_description(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer.json"
    try:
        description = read_json(path)
    except FileNotFoundError:
        hint = "`pretrain data tokenizer` makes one"
        raise UserError(f"{directory}: not a tokenizer directory (no tokenizer.json); {hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: is not valid JSON: {error}") from None
    keys = {"format_version", "type", "vocab_size", "eod_id", "fingerprint"}
    if not isinstance(description, dict) or set(description) != keys:
        raise IntegrityError(f"{path}: must hold exactly the keys {', '.join(sorted(keys))}")
    if description["format_version"] != FORMAT_VERSION:
        raise IntegrityError(
            f"{path}: format_version {description['format_version']!r}; known is {FORMAT_VERSION}"
        )
    if description["type"] not in MODEL_TYPES:
        raise IntegrityError(f"{path}: type {description['type']!r}; known are {', '.join(MODEL_TYPES)}")
    return description
