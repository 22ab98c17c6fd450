"""A `.tiktoken` file of ranks, encoded by the library `tiktoken`.

Such a file holds neither the pattern that cuts a text into words nor the special tokens. Those of the
published encodings are known by the hash of the file; for other ranks, `--encoding` says whose pattern it is.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from data_tools.errors import UserError
from data_tools.tokenizers.codec import ForeignCodec, Ids, Roles

END = "<|endoftext|>"


@dataclass(frozen=True)
class Encoding:
    """A published encoding.

    sha256: of its ranks. pattern: of a word. special: offset from the number of ranks, by name; the first
    ends a document.
    """

    sha256: str
    pattern: str
    special: Mapping[str, int]


_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "r50k_base": Encoding(
            "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", _GPT2, {END: 0}
        ),
        "cl100k_base": Encoding(
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            _GPT4,
            {
                END: 1,
                "<|fim_prefix|>": 2,
                "<|fim_middle|>": 3,
                "<|fim_suffix|>": 4,
                "<|endofprompt|>": 20,
            },
        ),
        "o200k_base": Encoding(
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            _GPT4O,
            {END: 1, "<|endofprompt|>": 20},
        ),
    }
)


class TiktokenCodec(ForeignCodec):
    """Encoded by the library `tiktoken`."""

    kind = "tiktoken"
    ENDING = ".tiktoken"
    TAKES_ENCODING = True

    def read(self, main: bytes) -> list[bytes]:
        """As `ForeignCodec.read`."""
        import tiktoken

        digest = hashlib.sha256(main).hexdigest()
        known = next((name for name, each in ENCODINGS.items() if each.sha256 == digest), None)
        name = self.settings.encoding or known
        if name is None:
            raise UserError(
                "holds ranks of no published encoding; say by --encoding whose pattern they are "
                f"for: {', '.join(ENCODINGS)}"
            )
        if name not in ENCODINGS:
            raise UserError(f"--encoding {name}: known are {', '.join(ENCODINGS)}")
        ranks = _ranks(main)
        # Ranks of one's own are followed by the special tokens without a gap.
        names = ENCODINGS[name].special
        special = names if name == known else {each: at for at, each in enumerate(names)}
        self._special = {each: len(ranks) + at for each, at in special.items()}
        self.settings = replace(self.settings, encoding=None if name == known else name)
        try:
            self._encoding: Any = tiktoken.Encoding(
                self.name,
                pat_str=ENCODINGS[name].pattern,
                mergeable_ranks=ranks,
                special_tokens=self._special,
            )
        except Exception as error:  # the library's own are plain
            raise ValueError(str(error)[:200]) from None
        return [*ranks, *[b""] * (1 + max(self._special.values()) - len(ranks))]

    def roles_from(self, files: Mapping[str, bytes], eod: str | int | None) -> Roles:
        """As `ForeignCodec.roles_from`."""
        chosen = END if eod is None else eod
        if isinstance(chosen, str) and chosen not in self._special:
            raise UserError(f"{chosen!r} is none of its special tokens ({', '.join(self._special)})")
        end = self._special[chosen] if isinstance(chosen, str) else chosen
        return Roles(end, (), None, self._special)

    def encode(self, text: str) -> Ids:
        text.encode("utf-8")  # the library would replace lone surrogates
        return np.array(self._encoding.encode_ordinary(text), np.int32)


def _ranks(main: bytes) -> dict[bytes, int]:
    """The bytes of each rank. Raises UserError for damage and for ranks that are not 0, 1, 2 ..."""
    found: dict[bytes, int] = {}
    for number, line in enumerate(main.splitlines(), 1):
        try:
            piece, rank = line.split()
            if int(rank) != len(found) or found.setdefault(
                base64.b64decode(piece, validate=True), int(rank)
            ) != int(rank):
                raise UserError(
                    f"line {number}: rank {int(rank)} instead of {len(found)}: ranks must have no holes"
                )
        except (ValueError, binascii.Error):
            raise UserError(f"line {number} is not a base64 text and its rank: {line[:40]!r}") from None
    if not {bytes([value]) for value in range(256)} <= found.keys():
        raise UserError("has no rank for each of the 256 bytes")
    return found
