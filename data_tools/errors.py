"""Errors that a user can cause; each carries the exit code of the process and a message without traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath

_OF_THE_MACHINE = frozenset(
    {
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)


class UserError(Exception):
    """Bad usage, config or input.

    The message names the file, the key or the shard, the offending value and the nearest right one.
    """

    exit_code = 2

    def __init__(self, text: str = "", key: str | None = None) -> None:
        """Make an error.

        Args:
            text: what is wrong.
            key: dotted config key that is wrong; None: no key, or an unknown one.
        """
        super().__init__(text)
        self.text = text
        self.key = key

    def __str__(self) -> str:
        """The message, preceded by its key, as `printable`."""
        return printable(self.text if self.key is None else f"{self.key}: {self.text}")


class IntegrityError(UserError):
    """A shard or a checkpoint is not what was written: missing, truncated, corrupted or foreign."""

    exit_code = 3


def machine_error(error: BaseException) -> str | None:
    """The message of an error that the machine causes, such as a full disk; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_MACHINE:
        return None
    file = error.filename2 or error.filename  # for a copy or a rename, the target
    return f"{file}: {error.strerror}" if file else str(error.strerror)


@contextmanager
def named(path: str | PathLike[str]) -> Iterator[None]:
    """Give errors of the system the name of the file: opening a file sets it, writing and closing do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = fspath(path)
        raise


def printable(text: str) -> str:
    """The text with escapes in place of characters that a terminal would obey or cannot print; line breaks
    stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)
