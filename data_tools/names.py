"""Names of files: any bytes, and not all of them are UTF-8.

Python keeps such a byte as a surrogate, U+DC80 to U+DCFF (PEP 383). No UTF-8 text can hold one, JSON and YAML
can spell it (\\udce9), and some parsers do not read it back.
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
"""Bytes of a name that file systems take."""


def is_foreign(text: str) -> bool:
    """Whether a text holds a byte that is no UTF-8."""
    return _FOREIGN.search(text) is not None


def masked(text: str) -> str:
    """The text for a parser that refuses such bytes: characters of private use in their place."""
    return text.translate(_AWAY)


def unmasked(text: str) -> str:
    """The inverse of `masked`."""
    return text.translate(_BACK)


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: what it cannot is spelt out, as JSON does."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def temporary_name(name: str) -> str:
    """A name beside another, for a file until it is whole."""
    mark = f".{secrets.token_hex(4)}.tmp"
    kept = os.fsencode(name)[: LONGEST - len(mark) - 1]
    return f".{os.fsdecode(kept)}{mark}"


@contextmanager
def utf8_alias(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path of a file to read, for a library that takes UTF-8 alone, as torch does: Linux has another name
    for an open file."""
    name = os.fspath(path)
    if not is_foreign(name):
        yield name
        return
    with open(name, "rb") as file:
        yield f"/proc/self/fd/{file.fileno()}"
