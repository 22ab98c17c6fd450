"""Files in a folder that nobody but this user may write, so that no file there is a link or another user's.

A name in a folder that others may write to, such as /tmp, can be theirs, or lead to a file of this user that
was never meant.
"""

import errno
import os
import stat
from pathlib import Path

from data_tools.bounded import UnfitFileError, check_regular


def make_private_folder(path: Path) -> None:
    """Make a folder for this user alone, or check that an existing one is. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    user, link, found = os.geteuid(), os.lstat(path), os.stat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, user):
        raise UnfitFileError(path, f"is a link of user {link.st_uid}; remove it, or name another folder")
    if found.st_uid != user:
        raise UnfitFileError(path, f"belongs to user {found.st_uid}; name a folder of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnfitFileError(
            path,
            f"may be written by other users (mode {stat.S_IMODE(found.st_mode):o}); `chmod go-w` it, or name "
            "another folder",
        )


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a regular file of this user; with O_CREAT, a new one is for this user alone.

    Raises OSError, UnfitFileError for a link and for anything that belongs to another user or is not a
    regular file.
    """
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        handle = os.open(path, flags | safe, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitFileError(path, "is a link") from None
        raise
    try:
        found = os.fstat(handle)
        check_regular(path, found)
        if found.st_uid != os.geteuid():
            raise UnfitFileError(path, f"belongs to user {found.st_uid}")
    except BaseException:
        os.close(handle)
        raise
    return handle
