"""Random access to the tokens of a shard directory, memory-mapped.

The directory is one stream of tokens: its blocks in the order of the index. At start only the index and the
sizes of the shards are read.
"""

import os
import threading
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.cache import ShardCache
from data_tools.directory import ShardDirectory, open_directory
from data_tools.errors import IntegrityError, UserError
from data_tools.index import Block, ShardIndex, read_index
from data_tools.maps import MappedShards
from data_tools.marks import Marks, Positions
from data_tools.tokenizer import Tokenizer


class ShardReader:
    """Reads a shard directory: a local one, or one by URL, whose shards are kept in a `cache`.

    Raises:
        UserError: `path` is not a shard directory, or a URL without a cache, or cannot be read.
        IntegrityError: the index is damaged, or a shard is missing, truncated or not a plain file.
    """

    def __init__(self, path: str | os.PathLike[str], cache: ShardCache | None = None) -> None:
        self.path, self._cache = os.fspath(path), cache
        self._directory = open_directory(self.path, cache)
        self.index: ShardIndex = read_index(self._directory.local, self.path)
        self._blocks: list[tuple[int, Block]] = [
            (number, block) for number, shard in enumerate(self.index.shards) for block in shard.blocks
        ]
        self._starts = [0, *accumulate(block.tokens for _, block in self._blocks)]
        self._dtype = np.dtype(self.index.dtype).newbyteorder("<")
        self._maps = MappedShards(self._directory.store, self.index.shards, self._forget)
        self._views: dict[int, np.ndarray[Any, np.dtype[Any]]] = {}  # the tokens of blocks of mapped shards
        self._docs: dict[int, Positions] = {}  # and where documents and sentences begin in them
        self._sents: dict[int, Positions] = {}
        self._lock = threading.Lock()
        blocks = [block for _, block in self._blocks]
        self.documents = Marks([block.docs for block in blocks], self._starts, self._read_docs)
        """Where documents begin."""
        self.sentences: Marks | None = None
        """Where sentences begin; None in shards that were built without `--sentences`."""
        if self.index.sentences is not None:
            self.sentences = Marks([block.sents or 0 for block in blocks], self._starts, self._read_sents)

    def __reduce__(self) -> tuple[type["ShardReader"], tuple[str, ShardCache | None]]:
        return ShardReader, (self.path, self._cache)

    def __len__(self) -> int:
        return self.index.tokens

    @property
    def fingerprint(self) -> str:
        """The sha256 that identifies the content: it covers every shard's checksum."""
        return self.index.fingerprint

    def read(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Tokens [start, stop) of the stream, shape [stop - start], dtype as stored.

        Within a block it is a read-only view of the file; across blocks a copy. Raises IndexError outside the
        stream.
        """
        starts = self._starts
        if not 0 <= start <= stop <= starts[-1]:
            raise IndexError(f"tokens [{start}, {stop}) of a stream of {len(self)}")
        number = max(bisect_right(starts, start, 0, len(starts) - 1) - 1, 0)
        if stop <= starts[number + 1]:
            first = starts[number]
            view = self._views.get(number)
            return (self._tokens(number) if view is None else view)[start - first : stop - first]
        parts = []
        while start < stop:
            end = min(stop, self._starts[number + 1])
            first = self._starts[number]
            parts.append(self._tokens(number)[start - first : end - first])
            start, number = end, number + 1
        return np.concatenate(parts)

    def gather(self, shard: int, places: Positions, length: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Copy the `length` tokens that start at each of these byte offsets of shard number `shard`: [places,
        length].

        It costs little more than its memory. The index says where tokens are; IndexError outside the shard.
        """
        with self._lock:
            found = self._maps.find(shard)
        # Each run of tokens is viewed as one wide item, so that numpy copies it in one piece.
        run = np.dtype((np.void, length * self._dtype.itemsize))
        runs = np.ndarray((len(found) - run.itemsize + 1,), run, found, strides=(1,))
        return runs[places].view(self._dtype).reshape(len(places), length)

    def document_starts(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Stream positions in [start, stop) at which a document begins, ascending, shape [documents]."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens [{start}, {stop}) of a stream of {len(self)}")
        return self.documents.between(start, stop)

    def nearest_document_start(self, position: int) -> int:
        """The document start nearest to `position` (the earlier one of two equally near)."""
        if not 0 <= position <= len(self):
            raise IndexError(f"position {position} of a stream of {len(self)}")
        following = self.documents.before(position + 1)
        before = self.documents.at(max(following - 1, 0))
        if following == len(self.documents):
            return before
        after = self.documents.at(following)
        return before if position - before <= after - position else after

    @property
    def tokenizer_folder(self) -> Path:
        """Where the directory carries its tokenizer."""
        return self._directory.local / "tokenizer"

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the directory carries; raises as `own_tokenizer` does."""
        return own_tokenizer(self._directory, self.index)

    def _tokens(self, number: int) -> np.ndarray[Any, np.dtype[Any]]:
        view = self._views.get(number)
        if view is None:
            shard, block = self._blocks[number]
            with self._lock:
                view = np.frombuffer(self._maps.find(shard), self._dtype, block.tokens, block.tokens_offset)
                self._views[number] = view
        return view

    def _read_docs(self, number: int) -> Positions:
        found = self._docs.get(number)
        if found is None:
            shard, block = self._blocks[number]
            with self._lock:
                found = np.frombuffer(self._maps.find(shard), "<i8", block.docs, block.docs_offset)
                self._docs[number] = found
        return found

    def _read_sents(self, number: int) -> Positions:
        found = self._sents.get(number)
        if found is None:
            shard, block = self._blocks[number]
            assert block.sents is not None and block.sents_offset is not None
            with self._lock:
                found = np.frombuffer(self._maps.find(shard), "<i8", block.sents, block.sents_offset)
                self._sents[number] = found
        return found

    def _forget(self, shard: int) -> None:
        for views in (self._views, self._docs, self._sents):
            for block in [block for block in views if self._blocks[block][0] == shard]:
                del views[block]


def own_tokenizer(directory: ShardDirectory, index: ShardIndex) -> Tokenizer:
    """The tokenizer that shards carry.

    Raises IntegrityError: it is missing or damaged, or is not the one that the shards were built with.
    """
    path = directory.local / "tokenizer"
    try:
        tokenizer = Tokenizer.load(path)
    except IntegrityError:
        raise
    except UserError as error:
        raise IntegrityError(
            f"{directory.named}: the shards' own tokenizer cannot be read: {error}"
        ) from None
    if tokenizer.fingerprint != index.tokenizer_fingerprint:
        raise IntegrityError(
            f"{path}: fingerprint {tokenizer.fingerprint[:16]}, but the shards were built with "
            f"{index.tokenizer_fingerprint[:16]}; copy the right one there or build the shards again"
        )
    return tokenizer
