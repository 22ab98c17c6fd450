"""Decides whether a document is kept, and if not, why: datatrove's quality filters, and py3langid for the
language.

Both run without a network: no model is downloaded, since py3langid's is part of its package.
"""

import difflib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.word_tokenizers import WordTokenizer

from data_tools.clean.options import CleanOptions
from data_tools.errors import UserError
from data_tools.sentences import sentences

LANGUAGE_CHARACTERS = 16_384


class Words(WordTokenizer):  # type: ignore[misc]
    """Splits words at whitespace and sentences with sentencex: datatrove's own tokenizers load spaCy."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """The sentences of a text; joined, they are the text."""
        return list(sentences([text], "split"))

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(pairwise(accumulate(map(len, self.sent_tokenize(text)), initial=0)))


class C4Lines(C4QualityFilter):  # type: ignore[misc]
    """C4's rules, with the counts of the last document's lines in `counts`, under datatrove's names."""

    def __init__(self, options: CleanOptions, words: Words) -> None:
        super().__init__(
            min_words_per_line=options.min_line_words, min_num_sentences=options.min_sentences, language=words
        )
        self.counts: Counter[str] = Counter()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self.counts.clear()
        verdict: bool | tuple[bool, str] = super().filter(doc)
        return verdict

    def stat_update(self, *labels: str, value: int = 1, unit: str | None = None) -> None:
        for label in labels:
            self.counts[label] += value


@dataclass(frozen=True)
class DocumentVerdict:
    """Whether a document is kept, and what remains of it."""

    reason: str | None
    """Why it is removed; None: it is kept."""
    text: str
    """What remains of it."""
    lines: dict[str, int]
    """Lines that were taken out of it, by reason."""


class Judge:
    """The filters for some options, in the order in which they are applied."""

    def __init__(self, options: CleanOptions) -> None:
        self._filters = _filters(options)
        self._c4 = next((each for each in self._filters if isinstance(each, C4Lines)), None)
        self._language, self._share = options.language, options.language_share

    def verdict(self, text: str) -> DocumentVerdict:
        """The verdict on a document with this text."""
        document = Document(text=text, id="")
        reason = self._reason(document)
        lines = {} if reason is not None or self._c4 is None else self._c4.counts
        prefix = "line-filter-"
        return DocumentVerdict(
            reason,
            document.text,
            {name.removeprefix(prefix): count for name, count in lines.items() if name.startswith(prefix)},
        )

    def _reason(self, document: Document) -> str | None:
        for each in self._filters:
            verdict = each.filter(document)
            kept, reason = verdict if isinstance(verdict, tuple) else (verdict, each.name)
            if not kept:
                return str(reason)
        if self._language is not None:
            found, share = identifier().classify(document.text[:LANGUAGE_CHARACTERS])
            if found != self._language:
                return f"language_{found}"
            if share < self._share:
                return "language_unsure"
        return None


def _filters(options: CleanOptions) -> list[BaseFilter]:
    words = Words()
    made: dict[str, BaseFilter] = {
        "c4": C4Lines(options, words),
        "gopher": GopherQualityFilter(
            min_doc_words=options.min_words,
            max_doc_words=options.max_words,
            # The stop words are English.
            min_stop_words=2 if options.language == "en" else None,
            language=words,
        ),
        "repetition": GopherRepetitionFilter(language=words),
        "fineweb": FineWebQualityFilter(language=words),
    }
    return [made[name] for name in options.rules]


def check_language(code: str) -> None:
    """Raise UserError for an unknown language."""
    known = identifier().labels
    if code not in known:
        nearest = difflib.get_close_matches(code.lower()[:2], known, 3, 0) or sorted(known)[:3]
        raise UserError(
            f"--language {code}: an ISO 639-1 code that py3langid knows, such as {', '.join(nearest)}"
        )


@lru_cache(maxsize=1)
def identifier() -> Any:
    """The language model, which takes half a second to load, once in each process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
