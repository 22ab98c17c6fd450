"""A shard directory as its users open it: a local one, or one by URL, of which index and tokenizer are
fetched."""

import contextlib
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_tools.atomic import write_atomically
from data_tools.bounded import SMALL_FILE, parse_json
from data_tools.cache import CachedShards, ShardCache
from data_tools.errors import UserError
from data_tools.index_file import INDEX_BYTES, INDEX_NAME, ShardFile, index_kind
from data_tools.maps import LocalShards, ShardStore
from data_tools.private import make_private_folder, open_private
from data_tools.remote import download, fetch
from data_tools.sources import is_remote
from data_tools.tokenizers.folder import DESCRIPTION, LARGEST_FILE, stored_files

IS_TEXT = re.compile(rb'"kind"\s*:\s*"text"')
"""Matches an index of text. The result for a damaged index does not matter: it is refused when it is read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardDirectory:
    """Where the parts of a shard directory are; can be sent to other processes."""

    named: str
    """Its path or URL, as it was given."""
    local: Path
    """The folder of its index and its tokenizer."""
    store: ShardStore


def open_directory(path: str | os.PathLike[str], cache: ShardCache | None) -> ShardDirectory:
    """Locate a shard directory. The index of a local one is not read.

    Raises UserError for a URL without a cache, or one that cannot be read.
    """
    named = os.fspath(path)
    if not is_remote(named):
        return ShardDirectory(named, Path(named), LocalShards(Path(named)))
    if cache is None:
        raise UserError(f"{named}: a URL needs data.cache_dir, a local folder to keep its shards in")
    return ShardDirectory(named, _fetch_index(named, cache.directory), CachedShards(named, cache))


def kind_of(path: str, cache: ShardCache | None) -> str:
    """What the shards of a directory hold, "text" or "images".

    Raises as `open_directory` and `index_kind` do.
    """
    opened = open_directory(path, cache)
    return index_kind(opened.local, opened.named)


class PassingCache(ShardCache):
    """Keeps no shard: it is on disk, without a name, for as long as somebody has it open."""

    def open(self, url: str, shard: ShardFile) -> BinaryIO:
        """A shard as a local file; raises as `ShardCache.open` does."""
        with contextlib.ExitStack() as undo:
            try:
                file = undo.enter_context(tempfile.TemporaryFile(dir=self.directory))
                download(url, shard, file)
                file.seek(0)
            except OSError as error:
                raise UserError(f"TMPDIR {self.directory.parent}: {error.strerror or error}") from None
            undo.pop_all()
            return file


@contextlib.contextmanager
def passing_cache(path: str) -> Iterator[ShardCache | None]:
    """A cache for a command that reads a directory once.

    Nothing remains on disk of a directory by URL; a local one needs no cache.
    """
    if not is_remote(path):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pretrain-data-") as folder:
        yield PassingCache(Path(folder), sys.maxsize)


def _fetch_index(url: str, directory: Path) -> Path:
    """A local folder with the index and, for text, the tokenizer of a remote shard directory.

    It is named after the hash of the index, so that rebuilt shards are not taken for the old ones. Existing
    content is not trusted, but written again where it differs from the remote. Raises UserError if they
    cannot be read or written.
    """
    base = url.rstrip("/")
    files = {INDEX_NAME: fetch(f"{base}/{INDEX_NAME}", INDEX_BYTES)}
    folder = directory / "indices" / hashlib.sha256(files[INDEX_NAME]).hexdigest()[:32]
    if IS_TEXT.search(files[INDEX_NAME]):
        files = {**_fetch_tokenizer(f"{base}/tokenizer"), **files}
    try:
        make_private_folder(directory)
        make_private_folder(folder.parent)
        is_new = not (folder / INDEX_NAME).exists()
        for name, content in files.items():
            if not _holds(folder / name, content):
                if not is_new:
                    log.warning(
                        "data.cache_dir %s: %s has changed; it is fetched again", directory, folder / name
                    )
                make_private_folder((folder / name).parent)
                write_atomically(folder / name, content)
    except OSError as error:
        raise UserError(f"data.cache_dir {error.filename or directory}: {error.strerror}") from None
    return folder


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file that belongs to this user has this content."""
    try:
        with open(open_private(path, os.O_RDONLY), "rb") as file:
            return file.read(len(content) + 1) == content
    except OSError:
        return False


def _fetch_tokenizer(url: str) -> dict[str, bytes]:
    description = fetch(f"{url}/{DESCRIPTION}", SMALL_FILE)
    try:
        names = stored_files(parse_json(description))
    except (ValueError, AttributeError):  # whoever loads it reports the damage
        names = ()
    files = {name: fetch(f"{url}/{name}", LARGEST_FILE) for name in names if ".." not in name}
    return {f"tokenizer/{name}": content for name, content in {DESCRIPTION: description, **files}.items()}
