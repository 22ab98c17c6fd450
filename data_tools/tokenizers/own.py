"""Our own tokenizers, which give every text back byte for byte.

Three are sentencepiece models (bpe, unigram, char) trained without any normalisation and with a token for
each byte; the fourth, `byte`, is the 256 bytes alone. sentencepiece writes a space as U+2581, and would read
a U+2581 in the text as a space; here such a character is always encoded as its three bytes.

A long text is cut into segments before it is encoded. This bounds memory and is also faster, since the cost
of byte-pair merging grows with the length. The rule of the cut depends on the text alone and so is part of
the tokenizer: a text gives the same tokens however it is divided when it arrives.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.codec import BERT_PIECES, SPACE_SYMBOL, BertIds, Codec, Ids, Roles
from data_tools.tokenizers.segments import SEGMENT_CHARACTERS, segments

FORMAT_VERSION = 1
MODEL_TYPES = ("bpe", "unigram", "char", "byte")
MODEL = "tokenizer.model"
MODEL_BYTES = 64 << 20
"""Size limit of a sentencepiece model; one with 256,000 pieces takes 5 MB."""


class OwnCodec(Codec):
    """A tokenizer of ours."""

    def __init__(self, model_type: str, model: bytes) -> None:
        """Set up from the bytes of a sentencepiece model; `byte` has none.

        Raises RuntimeError, ValueError or OSError for a damaged one.
        """
        if model_type not in MODEL_TYPES:
            raise UserError(f"model type {model_type!r}; known are {', '.join(MODEL_TYPES)}")
        self.kind, self.model = model_type, model
        bert = None
        if model_type == "byte":
            self.pieces, eod = [bytes([value]) for value in range(256)] + [b""], 256
        else:
            import sentencepiece

            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.pieces, eod = pieces_of(self._processor), self._processor.eos_id()
            if eod < 0 or len({piece for piece in self.pieces if len(piece) == 1}) < 256:
                raise ValueError("it has no end-of-document piece or not all 256 byte pieces")
            ids = [self._processor.piece_to_id(piece) for piece in BERT_PIECES]
            bert = BertIds(*ids) if all(self._processor.is_control(value) for value in ids) else None
        self.roles = Roles(eod, (), bert, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnCodec, (self.kind, self.model)

    @property
    def files(self) -> Mapping[str, bytes]:
        return {MODEL: self.model} if self.model else {}

    @property
    def fingerprint(self) -> str:
        """The sha256 of what defines the tokenizer: its type, its model and the rule of the segments."""
        description = {
            "format_version": FORMAT_VERSION,
            "type": self.kind,
            "vocab_size": len(self.pieces),
            "eod_id": self.roles.eod,
            "segment_characters": SEGMENT_CHARACTERS,
            "model_sha256": hashlib.sha256(self.model).hexdigest(),
        }
        return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()

    def segments(self, parts: Iterable[str]) -> Iterator[str]:
        return segments(parts)

    def encode(self, text: str) -> Ids:
        if self.kind == "byte":
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        if SPACE_SYMBOL in text:
            parts: list[Ids] = []
            for part in text.split(SPACE_SYMBOL):
                parts += [self._space_symbol, self._encode_plain(part)]
            return np.concatenate(parts[1:])
        return self._encode_plain(text)

    @cached_property
    def _space_symbol(self) -> Ids:
        ids = [self.pieces.index(bytes([value])) for value in SPACE_SYMBOL.encode("utf-8")]
        return np.array(ids, np.int32)

    def _encode_plain(self, text: str) -> Ids:
        ids: Ids = self._processor.encode(text.encode("utf-8"), return_type="numpy")
        return ids


def pieces_of(processor: Any) -> list[bytes]:
    """The bytes of each id of a sentencepiece model."""
    pieces = []
    for value in range(processor.vocab_size()):
        piece: str = processor.id_to_piece(value)
        if processor.is_byte(value):
            pieces.append(bytes([int(piece[3:5], 16)]))
        elif processor.is_control(value) or processor.is_unknown(value):
            pieces.append(b"")
        else:
            pieces.append(piece.replace(SPACE_SYMBOL, " ").encode("utf-8"))
    return pieces
