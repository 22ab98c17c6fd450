"""Removes passwords and tokens from text: tracking URIs end up in logs, parameters and messages."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from data_tools.errors import named

# Up to the last @ before the path: a password may contain an @ itself.
_USER = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(
    r"(?P<name>[?&;](?:sig|[\w-]*(?:token|passw|pwd|secret|key|signature|credential|auth)[\w-]*)=)[^&;\s'\"]+",
    re.IGNORECASE,
)
_URL = re.compile(r"\b[a-zA-Z][\w+.-]*://\S+")
PRIVATE, PUBLIC = 0o600, 0o666
"""Permissions of a new file; the process's umask applies to the latter."""


def redact(text: str) -> str:
    """`http://me:secret@host/?token=x` becomes `http://***@host/?token=***`, anywhere in a text."""
    return _QUERY.sub(r"\g<name>***", _USER.sub(r"\g<scheme>***@", text))


def holds_secret(text: str) -> bool:
    """Whether a URL in a text carries a password or a token; a path such as `shards?key=1` does not count,
    although `redact` changes it."""
    return any(redact(url) != url for url in _URL.findall(text))


def opener_for(text: str) -> Callable[[str, int], int]:
    """The opener with which `open` creates a file for this text: one with a secret is for its owner alone."""
    mode = PUBLIC if redact(text) == text else PRIVATE
    return lambda name, flags: os.open(name, flags, mode)


def write_new(path: Path, text: str, errors: str = "backslashreplace") -> None:
    """Write a new file, for its owner alone if it holds a secret. Raises FileExistsError.

    errors: how to write a byte of a file name that is not UTF-8: escaped as in JSON, or kept, by
        "surrogateescape", for bash.
    """
    with named(path), open(path, "x", encoding="utf-8", errors=errors, opener=opener_for(text)) as file:
        file.write(text)


def one_line(error: BaseException) -> str:
    """An error in one line, without secrets."""
    lines = str(error).splitlines() or [""]
    return redact(f"{type(error).__name__}: {lines[0]}")[:500]


class RedactingFormatter(logging.Formatter):
    """Formats a record, including its traceback, and redacts the result."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
