"""The language of a text, detected by py3langid."""

import difflib
from functools import lru_cache
from typing import Any

from data_tools.errors import UserError


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
