"""Tagged words: one word a line with its tag, an empty line after each sentence (CoNLL-2003, Tjong Kim Sang &
De Meulder 2003, section 2)."""

from dataclasses import dataclass

from pretrain.data.labelled.table import read_lines
from pretrain.errors import UserError

DOCUMENT_START = "-DOCSTART-"


@dataclass(frozen=True)
class TaggedSentence:
    """One sentence. line: where it begins, from 1. words, labels: alike in number."""

    line: int
    words: tuple[str, ...]
    labels: tuple[str, ...]


def read_conll(path: str, word_column: int, label_column: int) -> list[TaggedSentence]:
    """Every sentence of a file; lines of `-DOCSTART-` are no sentences.

    Args:
        path: text file of columns between blanks or tabs.
        word_column: where the word stands, from 0; below 0 from the right.
        label_column: where the tag stands.

    Raises:
        UserError: the file or a column is missing; names the line.
    """
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    labels: list[str] = []
    begin = 1

    def end() -> None:
        if words:
            sentences.append(TaggedSentence(begin, tuple(words), tuple(labels)))
        words.clear()
        labels.clear()

    for number, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0] == DOCUMENT_START:
            end()
            continue
        for name, column in (("word_column", word_column), ("label_column", label_column)):
            if not -len(fields) <= column < len(fields):
                raise UserError(
                    f"{path}:{number}: has {len(fields)} columns, 0 to {len(fields) - 1}; data.{name} is "
                    f"{column}"
                )
        if not words:
            begin = number
        words.append(fields[word_column])
        labels.append(fields[label_column])
    end()
    if not sentences:
        raise UserError(f"{path}: holds no sentence")
    return sentences
