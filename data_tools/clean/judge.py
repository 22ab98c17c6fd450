"""Whether a document is kept, and if not, why: datatrove's quality filters, and py3langid for the language.

Both run without a network: no model is downloaded, py3langid's is part of its package.
"""

import difflib
from functools import lru_cache
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.word_tokenizers import WordTokenizer

from data_tools.clean.options import CleanOptions
from data_tools.errors import UserError

LANGUAGE_CHARACTERS = 16_384


class Words(WordTokenizer):  # type: ignore[misc]
    """Words are what stands between whitespace: datatrove's own tokenizers load spaCy."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """Its lines; no filter here asks for sentences."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """The text as one span."""
        return [(0, len(text))]


class Judge:
    """The filters of some options, in the order in which they are asked."""

    def __init__(self, options: CleanOptions) -> None:
        self._filters = _filters(options)
        self._language, self._share = options.language, options.language_share

    def reason(self, text: str) -> str | None:
        """Why a document is removed; None: it is kept."""
        document = Document(text=text, id="")
        for each in self._filters:
            verdict = each.filter(document)
            kept, reason = verdict if isinstance(verdict, tuple) else (verdict, each.name)
            if not kept:
                return str(reason)
        if self._language is not None:
            found, share = _identifier().classify(text[:LANGUAGE_CHARACTERS])
            if found != self._language:
                return f"language_{found}"
            if share < self._share:
                return "language_unsure"
        return None


def check_language(code: str) -> None:
    """Raise UserError for a language that is not known."""
    known = _identifier().labels
    if code not in known:
        nearest = difflib.get_close_matches(code.lower()[:2], known, 3, 0) or sorted(known)[:3]
        raise UserError(
            f"--language {code}: an ISO 639-1 code that py3langid knows, such as {', '.join(nearest)}"
        )


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """The language model, which takes half a second to load, once in each process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _filters(options: CleanOptions) -> list[BaseFilter]:
    words = Words()
    made: dict[str, BaseFilter] = {
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
    return [made[name] for name in options.quality]
