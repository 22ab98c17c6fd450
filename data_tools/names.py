"""Names of files: any bytes, which need not be valid UTF-8.

Python keeps such a byte as a surrogate, U+DC80 to U+DCFF (PEP 383). UTF-8 text cannot hold one. JSON and YAML
can escape it (\\udce9), but some parsers do not read it back.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

_FOREIGN = re.compile(r"[\udc80-\udcff]")
_AWAY = {0xDC00 + byte: 0x10DC00 + byte for byte in range(0x80, 0x100)}
_BACK = {there: here for here, there in _AWAY.items()}
LONGEST = 255
"""Bytes of a name that file systems accept."""


def is_foreign(text: str) -> bool:
    """Whether a text holds a byte that is not UTF-8."""
    return _FOREIGN.search(text) is not None


def masked(text: str) -> str:
    """The text for a parser that refuses such bytes: private-use characters replace them."""
    return text.translate(_AWAY)


def unmasked(text: str) -> str:
    return text.translate(_BACK)


def storable(text: str) -> str:
    """The text with everything that UTF-8 cannot hold escaped, as JSON does."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def temporary_name(name: str) -> str:
    """A name beside another, for a file until it is complete."""
    mark = f".{secrets.token_hex(4)}.tmp"
    kept = os.fsencode(name)[: LONGEST - len(mark) - 1]
    return f".{os.fsdecode(kept)}{mark}"


@contextmanager
def utf8_alias(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path to an existing file for a library that accepts only UTF-8, as torch does.

    Linux offers another name for an open file.
    """
    name = os.fspath(path)
    if not is_foreign(name):
        yield name
        return
    with open(name, "rb") as file:
        yield f"/proc/self/fd/{file.fileno()}"
