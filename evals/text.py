"""How much text the scored tokens stand for: the denominators of word and byte perplexity.

A token's bytes are those that the tokenizer decodes it to; end-of-document tokens have none. Words are what
Python's `str.split()` separates in the text of each document, so a word does not reach across documents.
Where scoring begins or ends within a document, its first or last word may be partial: it counts as one.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer

CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True)
class TextSize:
    """UTF-8 bytes and whitespace-separated words of a text."""

    bytes: int
    words: int


class _Counter:
    """Counts a document that arrives in chunks of bytes, which may end within a character or a word."""

    def __init__(self) -> None:
        self.bytes = 0
        self.words = 0
        self._begin()

    def _begin(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._in_word = False

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        self._count(self._decoder.decode(data))

    def end_document(self) -> None:
        self._count(self._decoder.decode(b"", final=True))
        self._begin()

    def _count(self, text: str) -> None:
        if not text:
            return
        self.words += len(text.split()) - (self._in_word and not text[0].isspace())
        self._in_word = not text[-1].isspace()


def text_size(ranges: Iterable[tuple[ShardReader, int, int]], tokenizer: Tokenizer) -> TextSize:
    """Size of the text of tokens [start, stop) of each stream; memory use does not grow with the range."""
    counter = _Counter()
    for reader, start, stop in ranges:
        for first in range(start, stop, CHUNK_TOKENS):
            last = min(first + CHUNK_TOKENS, stop)
            starts = reader.document_starts(first, last) - first
            documents = np.split(reader.read(first, last), starts)
            counter.add(tokenizer.decode_bytes(documents[0].tolist()))
            for document in documents[1:]:
                counter.end_document()
                counter.add(tokenizer.decode_bytes(document.tolist(), begins=True))
        counter.end_document()
    return TextSize(counter.bytes, counter.words)
