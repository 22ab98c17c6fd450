"""Takes passwords and tokens out of text: tracking URIs end up in logs, parameters and messages."""

import logging
import re

# Up to the last @ before the path: a password may hold an @ itself.
_USER = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"(?P<name>[?&][\w-]*(?:token|password|secret|key)[\w-]*=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`http://me:secret@host/?token=x` becomes `http://***@host/?token=***`, anywhere in a text."""
    return _QUERY.sub(r"\g<name>***", _USER.sub(r"\g<scheme>***@", text))


def one_line(error: BaseException) -> str:
    """An error in one line, without secrets."""
    lines = str(error).splitlines() or [""]
    return redact(f"{type(error).__name__}: {lines[0]}")[:500]


class RedactingFormatter(logging.Formatter):
    """Formats a record, traceback and all, and redacts the result."""

    def format(self, record: logging.LogRecord) -> str:
        """One or more lines of text."""
        return redact(super().format(record))
