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

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.codec import BertIds as BertIds
from data_tools.tokenizers.codec import Codec, Offsets, Settings
from data_tools.tokenizers.codec import Ids as Ids
from data_tools.tokenizers.folder import open_codec, save_codec, write_original
from data_tools.tokenizers.own import MODEL, OwnCodec


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
        save_codec(self.codec, Path(path))

    def write_original(self, directory: Path) -> None:
        """Write the files that it was read from, byte for byte."""
        write_original(self.codec, directory)

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
        settings = Settings(encoding=encoding, rows=rows)
        return cls(open_codec(Path(path), end_of_document, settings))


def byte_tokenizer() -> Tokenizer:
    """The tokenizer of 256 bytes and the end-of-document token."""
    return Tokenizer(OwnCodec("byte", b""))


def own_tokenizer(model_type: str, model: bytes) -> Tokenizer:
    """One of ours, from the bytes of a sentencepiece model."""
    return Tokenizer(OwnCodec(model_type, model))
