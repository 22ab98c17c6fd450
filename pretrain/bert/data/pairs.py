"""Samples of segments from a token range. Each is found by itself: no index is built.

With next-sentence prediction (Devlin et al. 2019, section 3.1 and appendix A.2) the range is divided into
chunks that begin at each document and at each multiple of a sample's length, so that chunk i follows from i.
The whole sentences that begin in a chunk belong to it: an epoch, which is each chunk once, has every sentence
about once. They are divided at one of them into segments A and B. For half of the samples, B is replaced by
as much text from another document.

Two things differ from the original, so that a model cannot learn to recognise random pairs by their form.
First, the label does not depend on the text: a chunk of one sentence also takes one of its neighbours, and a
chunk in a document of a single sentence is replaced by the next longer document. Second, a random B is about
as long as the one that it replaces and, in documents of two sentences or more, is not the first sentence,
which no true B is.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from data_tools.marks import Marks
from pretrain.bert.data.rng import HashRng
from pretrain.data.sources import TokenRange

FOLLOWS, RANDOM, NO_LABEL = 0, 1, -1


@dataclass(frozen=True, slots=True)
class Segments:
    """Stream positions [start, stop) of a sample's segments; `second` is None if there is only one."""

    first: tuple[int, int]
    second: tuple[int, int] | None
    label: int


class Sampler(Protocol):
    """The samples of one source."""

    def __len__(self) -> int: ...

    def __call__(self, index: int, rng: HashRng) -> Segments:
        """Sample `index`; everything random about it comes from `rng`."""


@dataclass(frozen=True)
class Stretches:
    """Samples of one segment: each the next `room` tokens of the stream, across documents.

    Liu et al. 2019, "RoBERTa", section 4.2: FULL-SENTENCES, without the sentences.
    """

    source: TokenRange
    room: int

    def __len__(self) -> int:
        return -(-self.source.tokens // self.room)

    def __call__(self, index: int, rng: HashRng) -> Segments:
        """Stretch `index`; the last one may be shorter. Nothing about it is random."""
        start = self.source.start + index * self.room
        return Segments((start, min(start + self.room, self.source.stop)), None, NO_LABEL)


class Pairs:
    """Segment pairs of a range with two documents or more, one of them of two sentences or more.

    room: tokens of both segments together.
    """

    def __init__(self, source: TokenRange, sentences: Marks, room: int, short_probability: float) -> None:
        self._start, self._stop, self._room = source.start, source.stop, room
        self._short_probability = short_probability
        self._length = len(source.reader)
        self._documents, self._sentences = source.reader.documents, sentences
        self._first_document = self._documents.before(source.start)
        self._document_count = self._documents.before(source.stop) - self._first_document
        self._first_sentence = sentences.before(source.start)
        self._sentence_count = sentences.before(source.stop) - self._first_sentence

    def __len__(self) -> int:
        return self._document_count + (self._stop - self._start - 1) // self._room

    def __call__(self, index: int, rng: HashRng) -> Segments:
        document, starts, end = self._chunk(index)
        target = self._room
        if rng.happens(self._short_probability):
            target = 2 + rng.below(self._room - 1)
        # As many sentences as reach the target, and at least two.
        count = max(2, min(bisect_left(starts, starts[0] + target), len(starts)))
        end = starts[count] if count < len(starts) else end
        middle = starts[1 + rng.below(count - 1)]
        first, second = (starts[0], middle), (middle, end)
        label = RANDOM if rng.below(2) else FOLLOWS
        if label == RANDOM:
            second = self._elsewhere(document, end - middle, rng)
        return _truncated(first, second, label, target, rng)

    def _chunk(self, index: int) -> tuple[tuple[int, int], list[int], int]:
        """The document of a chunk, where its sentences begin (two or more), and where the last one ends."""
        if index < self._document_count:
            position = self._documents.at(self._first_document + index)
        else:
            position = self._start + (index - self._document_count + 1) * self._room
        document = self._document(self._documents.before(position + 1) - 1)
        next_cut = position + self._room - (position - self._start) % self._room
        first = self._sentences.before(position)
        last = self._sentences.before(min(next_cut, document[1]))
        if last - first < 2:
            low, high = (self._sentences.before(edge) for edge in document)
            if high - low < 2:
                document = self._next_of_sentences(self._documents.before(document[0] + 1) - 1)
                low, high = (self._sentences.before(edge) for edge in document)
                first, last = low, min(high, self._sentences.before(document[0] + self._room))
            first = max(low, min(first, high - 2))
            last = max(last, first + 2)
        starts = self._sentences.between(self._sentences.at(first), self._sentences.at(last - 1) + 1).tolist()
        end = self._sentences.at(last) if last < len(self._sentences) else self._length
        return document, starts, min(end, document[1])

    def _document(self, number: int) -> tuple[int, int]:
        """The part of a document that lies in the range, without its end-of-document token."""
        following = number + 1
        end = self._documents.at(following) if following < len(self._documents) else self._length
        return max(self._documents.at(number), self._start), min(end - 1, self._stop)

    def _next_of_sentences(self, number: int) -> tuple[int, int]:
        """The first document from `number` on that has two sentences; after the end, from the beginning."""
        last = self._first_document + self._document_count
        for start in (max(number, self._first_document), self._first_document):
            # The count of sentences beyond the first of each document never falls, so bisect finds the place.
            spare = self._spare(start)
            found = bisect_left(range(start, last), spare + 1, key=lambda each: self._spare(each + 1))
            if start + found < last:
                return self._document(start + found)
        raise AssertionError("the range has a document of two sentences")

    def _spare(self, number: int) -> int:
        """Sentences before a document that are not the first of their own document."""
        if number >= self._first_document + self._document_count:
            return self._first_sentence + self._sentence_count - number
        return self._sentences.before(self._documents.at(number)) - number

    def _elsewhere(self, document: tuple[int, int], length: int, rng: HashRng) -> tuple[int, int]:
        """Whole sentences of another document, of `length` tokens on average if it has as many."""
        low, high = (self._sentences.before(edge) for edge in document)
        number = self._first_sentence + rng.below(self._sentence_count - (high - low))
        # `number` was drawn from the sentences of other documents, so this document's are skipped.
        if number >= low:
            number += high - low
        start = self._sentences.at(number)
        following = self._documents.before(start + 1)
        other = self._document(following - 1)
        if start == other[0] and number + 1 < self._sentences.before(other[1]):
            start = self._sentences.at(number + 1)
        asked = start + length
        if asked >= other[1]:
            return start, other[1]
        above = self._sentences.before(asked)
        end = min(self._sentences.at(above) if above < len(self._sentences) else self._length, other[1])
        below = self._sentences.at(above - 1)
        if below > start and not rng.happens((asked - below) / (end - below)):
            end = below
        return start, end


def _truncated(
    first: tuple[int, int], second: tuple[int, int], label: int, most: int, rng: HashRng
) -> Segments:
    """Cut both segments to `most` tokens together: the longer one first, by random parts at both ends.

    (The original tosses a coin for each token, which leaves only the middle of a long segment to be seen.)
    """
    a, b = first[1] - first[0], second[1] - second[0]
    excess = a + b - most
    if excess <= 0:
        return Segments(first, second, label)
    # The longer one is cut until both are equally long; then both in turn, the second one first.
    lead = min(excess, abs(a - b))
    cut_a = (lead if a > b else 0) + (excess - lead) // 2
    return Segments(_cut(first, cut_a, rng), _cut(second, excess - cut_a, rng), label)


def _cut(segment: tuple[int, int], tokens: int, rng: HashRng) -> tuple[int, int]:
    front = rng.below(tokens + 1)
    return segment[0] + front, segment[1] - (tokens - front)
