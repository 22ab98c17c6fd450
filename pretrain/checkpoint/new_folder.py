"""The output folder of a conversion: complete or not there at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.atomic import in_place_of
from pretrain.errors import UserError


@contextmanager
def new_folder(path: str) -> Iterator[Path]:
    """A folder to fill, which gets its final name if the `with` block succeeds, and is deleted if it does
    not.

    Raises UserError: the name is already taken.
    """
    if "\0" in path:
        raise UserError(f"path {path!r} holds a NUL byte")
    target = Path(path).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{path}: is there already, and not an empty folder; choose another")
    with in_place_of(target) as temporary:  # replaces an existing empty folder too
        temporary.mkdir(parents=True)
        yield temporary
