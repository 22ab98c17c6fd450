"""Examples as token ids: what a fine-tuned BERT reads, and what it has to predict.

A text is [CLS] A [SEP], a pair [CLS] A [SEP] B [SEP] (Devlin et al. 2019, section 3). If they are longer than
the sequence, the longer text loses tokens from its end, as in BERT's published code.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_tools.tokenizer import BertIds, Tokenizer
from pretrain.bert.finetune.data.conll import TaggedSentence
from pretrain.config.schema import nearest_name
from pretrain.data.table import TextRow
from pretrain.errors import UserError


@dataclass(frozen=True)
class Labels:
    """The classes of a task, in the order of their numbers."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str, where: str) -> int:
        """The number of a class. Raises UserError, saying `where`, if training never showed it."""
        try:
            return self.names.index(name)
        except ValueError:
            meant = nearest_name(name, self.names)
            hint = f"did you mean '{meant}'?" if meant else "it has: " + ", ".join(self.names)
            raise UserError(
                f"{where}: label {name!r:.60} does not occur in the training data ({hint})"
            ) from None


def training_labels(path: str, found: Iterable[str], given: Sequence[str] | None) -> Labels:
    """The classes of a training file.

    Args:
        found: the label of every example.
        given: the classes that the config lists; None: those that are found, sorted.

    Raises:
        UserError: fewer than two classes, a class without an example, or an example of a class that is not
            listed.
    """
    counts = Counter(found)
    if given is not None:
        for name in counts:
            if name not in given:
                raise UserError(f"{path}: label {name!r:.60} is not in data.labels: {', '.join(given)}")
        for name in given:
            if not counts[name]:
                raise UserError(f"{path}: class '{name}' of data.labels is empty: it has no example")
    if len(counts) < 2:
        raise UserError(f"{path}: every example is of the class '{next(iter(counts))}'; two classes or more")
    return Labels(tuple(given) if given is not None else tuple(sorted(counts)))


NO_LABEL = -1


@dataclass(frozen=True)
class LabelledExample:
    """One example, encoded.

    tokens, token_types: of equal length. label: number of the class of the whole, NO_LABEL for tagged words.
    tags: for each token the class of the word that begins there, NO_LABEL elsewhere; empty for texts. words:
    the class of every word, including those that were cut off; empty for texts. line: of the file that it
    comes from. cut: tokens that did not fit.
    """

    tokens: tuple[int, ...]
    token_types: tuple[int, ...]
    label: int
    tags: tuple[int, ...]
    words: tuple[int, ...]
    line: int
    cut: int


def encode_row(
    row: TextRow, path: str, tokenizer: Tokenizer, special: BertIds, labels: Labels, length: int
) -> LabelledExample:
    """Encode one or two texts with a label; `length` is the most tokens allowed, special ones included."""
    parts = [tokenizer.encode(text) for text in row.texts]
    whole = sum(map(len, parts))
    parts = _truncated(parts, length - 1 - len(parts))
    tokens, types = [special.cls], [0]
    for index, part in enumerate(parts):
        tokens += [*part, special.sep]
        types += [index] * (len(part) + 1)
    number = labels.number(row.label, f"{path}:{row.line}")
    return LabelledExample(
        tuple(tokens), tuple(types), number, (), (), row.line, whole - sum(map(len, parts))
    )


def encode_sentence(
    sentence: TaggedSentence,
    path: str,
    tokenizer: Tokenizer,
    special: BertIds,
    labels: Labels,
    length: int,
) -> LabelledExample:
    """Encode tagged words: the first token of each word carries its class, as in BERT's paper, section 5.3.

    Raises UserError for a word without a token, and as `Labels.number`.
    """
    tokens, tags, words = [special.cls], [NO_LABEL], []
    for index, (word, label) in enumerate(zip(sentence.words, sentence.labels, strict=True)):
        subwords = tokenizer.encode(f" {word}" if index else word)
        where = f"{path}:{sentence.line + index}"
        if not subwords:  # its class would fall on the next word
            raise UserError(f"{where}: the word {word!a:.60} is nothing to this tokenizer; take it out")
        number = labels.number(label, where)
        words.append(number)
        tokens += subwords
        tags += [number, *[NO_LABEL] * (len(subwords) - 1)]
    cut = max(0, len(tokens) + 1 - length)
    tokens, tags = [*tokens[: length - 1], special.sep], [*tags[: length - 1], NO_LABEL]
    return LabelledExample(
        tuple(tokens), (0,) * len(tokens), NO_LABEL, tuple(tags), tuple(words), sentence.line, cut
    )


def _truncated(parts: Sequence[list[int]], length: int) -> list[list[int]]:
    """Parts of at most `length` tokens together; the longer one is cut first."""
    sizes = [len(part) for part in parts]
    while sum(sizes) > length:
        sizes[sizes.index(max(sizes))] -= 1
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]
