"""The folder that a conversion makes: whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.names import temporary_name
from pretrain.checkpoint.files import sync_folder
from pretrain.errors import UserError


@contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """A folder to fill, which gets its name when the `with` block ends well, and goes when it does not.

    Raises:
        UserError: there is something under the name already.
    """
    if "\0" in path:
        raise UserError(f"path {path!r} holds a NUL byte")
    target = Path(path).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{path}: is there already, and not an empty folder; choose another")
    temporary = target.with_name(temporary_name(target.name))
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)  # takes the place of an empty folder
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
