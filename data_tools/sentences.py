"""Where the sentences of a document begin, in text and then in tokens.

Tokens do not depend on sentences: a text is encoded as it would be without them, and each boundary is moved
to the first token that begins at or after it. Sentences are adjacent and give the text back when joined; the
whitespace between two of them belongs to the second, as in sentencepiece's pieces.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from data_tools.tokenizer import Ids, Tokenizer

KINDS = ("none", "split", "lines")
LONGEST_LINE = 1 << 16
LONGEST_SENTENCE = 1024
"""Characters; text in which no rule finds an end (code, tables) is divided at a space."""


def sentences(parts: Iterable[str], kind: str) -> Iterator[str]:
    """The sentences of a text, which may arrive in parts; joined, they are the text.

    kind: "lines" takes each non-blank line as a sentence; "split" finds sentences within paragraphs by the
    rules of sentencex, with its English abbreviations, and divides those longer than `LONGEST_SENTENCE`. The
    result does not depend on how the text was divided into parts.
    """
    if kind == "lines":
        return _with_leading_space(_lines(parts))
    return _with_leading_space(piece for stretch in _paragraphs(parts) for piece in _split(stretch))


class SentenceMarks:
    """Iterates over the sentences of a document and tells in which token of a segment each begins.

    Segments must be requested in order, and must be those of the text that the iteration gave.
    """

    def __init__(self, pieces: Iterable[str], tokenizer: Tokenizer) -> None:
        self._pieces, self._tokenizer = pieces, tokenizer
        self._starts: deque[int] = deque()  # character offsets of sentences that no segment has consumed yet
        self._read = self._asked = 0
        self._carried = False

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._starts.append(self._read)
            self._read += len(piece)
            yield piece

    def within(self, segment: str, ids: Ids) -> Ids:
        """Positions in the segment's tokens at which a sentence begins, ascending."""
        stop, offsets = self._asked + len(segment), list[int]()
        while self._starts and self._starts[0] < stop:
            offsets.append(self._starts.popleft() - self._asked)
        self._asked = stop
        if not segment.isascii():
            offsets = [len(segment[:offset].encode("utf-8")) for offset in offsets]
        found = np.searchsorted(self._tokenizer.token_starts(segment, ids), offsets)
        if self._carried:
            found = np.concatenate([[0], found])
        # A sentence that starts within the last token is assigned to the start of the next segment.
        self._carried = bool(len(found) and found[-1] == len(ids))
        return np.unique(found[found < len(ids)]).astype(np.int32)


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """Lines including their ends; one longer than `LONGEST_LINE` is divided."""
    buffer, position = "", 0
    for part in parts:
        buffer, position = buffer[position:] + part, 0
        while True:
            end = buffer.find("\n", position, position + LONGEST_LINE) + 1
            if not end:
                if len(buffer) - position <= LONGEST_LINE:
                    break
                end = _cut(buffer, position, LONGEST_LINE)
            yield buffer[position:end]
            position = end
    if position < len(buffer):
        yield buffer[position:]


def _cut(text: str, start: int, most: int) -> int:
    """Where to divide a text that is longer than `most` characters: before a space, if there is one."""
    space = text.rfind(" ", start + 1, start + most)
    return space if space > 0 else start + most


def _paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """Lines joined up to a blank one, or up to `LONGEST_LINE`."""
    collected, length = list[str](), 0
    for line in _lines(parts):
        ends = not line.strip() or length + len(line) > LONGEST_LINE
        if collected and ends:
            yield "".join(collected)
            collected, length = [], 0
        collected.append(line)
        length += len(line)
    yield "".join(collected)


def _split(text: str) -> Iterator[str]:
    """The sentences of one paragraph; joined, they are the text whatever the library left out."""
    import sentencex

    position = 0
    for sentence in sentencex.segment("en", text):
        found = text.find(sentence, position)
        if found >= 0:
            end = found + len(sentence)
            while end - position > LONGEST_SENTENCE:
                middle = _cut(text, position, LONGEST_SENTENCE)
                yield text[position:middle]
                position = middle
            yield text[position:end]
            position = end
    yield text[position:]


def _with_leading_space(pieces: Iterable[str]) -> Iterator[str]:
    """Move whitespace at the end of a sentence to the start of the next; only the last keeps its own."""
    pending, space = "", ""
    for piece in pieces:
        body = piece.rstrip()
        if not body:
            space += piece
            continue
        if pending:
            yield pending
        pending, space = space + body, piece[len(body) :]
    if pending or space:
        yield pending + space
