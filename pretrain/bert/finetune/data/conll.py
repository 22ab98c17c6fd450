"""Tagged words: one word a line with its tag, an empty line after each sentence (CoNLL-2003, Tjong Kim Sang &
De Meulder 2003, section 2)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pretrain.data.table import read_lines
from pretrain.errors import UserError

DOCUMENT_START = "-DOCSTART-"


@dataclass(frozen=True)
class TaggedSentence:
    """One sentence. line: where it begins, from 1. words, labels: equally many."""

    line: int
    words: tuple[str, ...]
    labels: tuple[str, ...]


def read_conll(path: str, word_column: int, label_column: int) -> list[TaggedSentence]:
    """Read every sentence of a file.

    Only blanks and tabs separate columns: a no-break space is part of a word. Lines of `-DOCSTART-` are not
    sentences, and lines of `#` before a sentence are comments if they have another number of columns.

    Args:
        path: text file of columns between blanks or tabs.
        word_column: column of the word, from 0; below 0 from the right.
        label_column: column of the tag.

    Raises:
        UserError: the file or a column is missing, or a line has more or fewer columns than the first; names
            the line.
    """
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    labels: list[str] = []
    begin, width = 1, 0
    doubtful: list[tuple[int, str]] = []
    rows = list(_rows(path))
    for number, fields in [*rows, (len(rows) + 1, [])]:
        if not fields or fields[0] == DOCUMENT_START:
            if words:
                sentences.append(TaggedSentence(begin, tuple(words), tuple(labels)))
            words, labels = [], []
            continue
        width = width or _width(path, rows, word_column, label_column)
        if not words and fields[0].startswith("#") and len(fields) != width:
            continue
        if len(fields) != width:
            raise UserError(
                f"{path}:{number}: columns between blanks or tabs: {len(fields)}, in the lines before {width}"
            )
        if not words:
            begin = number
            if fields[0] == "#":
                doubtful.append((number, fields[label_column]))
        words.append(fields[word_column])
        labels.append(fields[label_column])
    if not sentences:
        raise UserError(f"{path}: holds no sentence")
    _refuse_comments(path, sentences, doubtful)
    return sentences


def _refuse_comments(path: str, sentences: Sequence[TaggedSentence], doubtful: list[tuple[int, str]]) -> None:
    """Raise UserError for a first word `#` whose class no other word has: `# newdoc` in two columns."""
    counts = Counter(label for sentence in sentences for label in sentence.labels)
    counts.subtract(label for _, label in doubtful)
    for number, label in doubtful:
        if not counts[label]:
            raise UserError(
                f"{path}:{number}: is a comment, or the word # of a class {label!r:.60} that no other word "
                "has; take it out"
            )


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers, from 1, and columns; no columns for a blank line."""
    for number, line in read_lines(path):
        text = (line.removeprefix("\ufeff") if number == 1 else line).rstrip(" \t")
        if text.startswith((" ", "\t")):
            raise UserError(f"{path}:{number}: begins with a blank or tab: its first column is empty")
        yield number, re.split("[ \t]+", text) if text else []


def _width(path: str, rows: Sequence[tuple[int, list[str]]], word_column: int, label_column: int) -> int:
    """The number of columns of the first line that is not a comment. Raises UserError if it is too small."""
    tagged = [row for row in rows if row[1] and row[1][0] != DOCUMENT_START]
    number, fields = next((row for row in tagged if not row[1][0].startswith("#")), tagged[0])
    width = len(fields)
    for name, column in (("word_column", word_column), ("label_column", label_column)):
        if not -width <= column < width:
            raise UserError(
                f"{path}:{number}: has {width} columns, 0 to {width - 1}; data.{name} is {column}"
            )
    if word_column % width == label_column % width:
        raise UserError(
            f"{path}:{number}: has {width} columns; data.word_column {word_column} and data.label_column "
            f"{label_column} are the same one"
        )
    return width
