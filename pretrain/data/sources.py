"""Shard directories opened as ranges of tokens, after checking that they match.

All sources of a run, training and validation, must have been built with one tokenizer, since an id means
different text in another; and with `data.tokenizer`, if the config names one.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data_tools.cache import ShardCache
from data_tools.counts import are, counted
from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer
from pretrain.config.sections import TokenConfig
from pretrain.config.sections.source import ShardDataConfig
from pretrain.data.batch import BatchRow
from pretrain.errors import UserError

CACHE_BYTES = 64 << 30
"""Default size if the config does not set one."""


def shard_cache(data: ShardDataConfig) -> ShardCache | None:
    """The cache; None if the config names no folder for it."""
    if data.cache_dir is None:
        return None
    return ShardCache(Path(data.cache_dir), data.cache_bytes or CACHE_BYTES)


@dataclass(frozen=True)
class TokenRange:
    """Tokens [start, stop) of one shard directory's stream."""

    path: str
    reader: ShardReader
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        return self.stop - self.start

    def describe(self) -> dict[str, str | int]:
        """What identifies the range, for fingerprints and result files."""
        return {"fingerprint": self.reader.fingerprint, "start": self.start, "stop": self.stop}

    def row(self, sample_id: int, start: int, stop: int, *, reset: bool, score_from: int = 0) -> BatchRow:
        """Stream positions [start, stop) as a row of a batch; with document starts if `reset`."""
        starts = self.reader.document_starts(start, stop) - start if reset else None
        return BatchRow(sample_id, self.reader.read(start, stop), starts, score_from, self.path, start)


def open_training(config: TokenConfig) -> tuple[TokenRange, ...]:
    """The training part of every source in `data.train`.

    Raises UserError when a source is shorter than one sequence or has another tokenizer; the reader's
    IntegrityError is passed on.
    """
    length = config.batch.sequence_length
    ranges = tuple(_training_part(reader, config) for reader in _open(config))
    for source in ranges:
        if source.tokens < length + 1:
            raise UserError(
                f"{source.path}: {counted(source.tokens, 'token')} {are(source.tokens)} fewer than "
                "one sequence: batch.sequence_length "
                f"{length:,} needs {length + 1:,}; the longest sequence_length that fits is "
                f"{max(0, source.tokens - 1):,}"
            )
    return ranges


def open_validation(
    config: TokenConfig, tokenizer_fingerprint: str | None = None
) -> tuple[TokenRange, ...] | None:
    """The validation sources of a config: `data.validation`, or the ends split off from `data.train`, or None
    if it has neither.

    tokenizer_fingerprint: of the tokenizer that the model was trained with; by default that of `data.train`.
    """
    if config.data.validation is not None:
        expected = tokenizer_fingerprint or _open(config)[0].index.tokenizer_fingerprint
        paths = [source.path for source in config.data.validation]
        return open_whole(paths, expected, "data.validation", shard_cache(config.data))
    if config.data.validation_fraction is None:
        return None
    readers = _open(config)
    if tokenizer_fingerprint:
        _check_tokenizers(readers, tokenizer_fingerprint, "the model's tokenizer")
    return tuple(
        TokenRange(reader.path, reader, _training_part(reader, config).stop, len(reader))
        for reader in readers
    )


def fingerprint_of(sources: Sequence[TokenRange]) -> str:
    """Equal fingerprints give equal tokens to validate on."""
    return hashlib.sha256(json.dumps([source.describe() for source in sources]).encode()).hexdigest()


def open_whole(
    paths: Sequence[str], tokenizer_fingerprint: str, key: str, cache: ShardCache | None
) -> tuple[TokenRange, ...]:
    """Whole shard directories to score, built with the tokenizer with this fingerprint; `key` is for
    messages."""
    readers = [_reader(path, key, cache) for path in paths]
    _check_tokenizers(readers, tokenizer_fingerprint, "the model's tokenizer")
    for reader in readers:
        if len(reader) < 2:
            raise UserError(
                f"{reader.path}: {key}: {counted(len(reader), 'token')} without a label to score; "
                "2 or more do"
            )
    return tuple(TokenRange(reader.path, reader, 0, len(reader)) for reader in readers)


def _training_part(reader: ShardReader, config: TokenConfig) -> TokenRange:
    if config.data.validation_fraction is None:
        return TokenRange(reader.path, reader, 0, len(reader))
    cut = cut_position(
        reader.path,
        len(reader),
        config.data.validation_fraction,
        config.batch.sequence_length,
        reader.nearest_document_start,
    )
    return TokenRange(reader.path, reader, 0, cut)


def _open(config: TokenConfig) -> list[ShardReader]:
    """Readers of `data.train`, all with the same tokenizer."""
    cache = shard_cache(config.data)
    readers = [_reader(source.path, "data.train", cache) for source in config.data.train]
    if config.data.tokenizer is None:
        first = readers[0]
        _check_tokenizers(readers, first.index.tokenizer_fingerprint, f"that of {first.path}")
    else:
        given = Tokenizer.load(config.data.tokenizer).fingerprint
        _check_tokenizers(readers, given, f"data.tokenizer {config.data.tokenizer}")
    return readers


def _reader(path: str, key: str, cache: ShardCache | None) -> ShardReader:
    try:
        return ShardReader(path, cache)
    except UserError as error:
        raise type(error)(str(error), key) from None


def _check_tokenizers(readers: Iterable[ShardReader], expected: str, whose: str) -> None:
    for reader in readers:
        found = reader.index.tokenizer_fingerprint
        if found != expected:
            raise UserError(
                f"{reader.path}: the shards were built with tokenizer {found[:12]}, not {expected[:12]} "
                f"({whose}); build them again with that tokenizer"
            )


def cut_position(
    path: str,
    tokens: int,
    fraction: float,
    sequence_length: int,
    nearest_document_start: Callable[[int], int],
) -> int:
    """The split: training has tokens [0, cut), validation [cut, tokens).

    It is at the document start nearest to the requested fraction if that leaves a whole sequence on both
    sides, so that no document is in both parts; a source with only one document is split at the token.

    Raises UserError naming `path` when a side cannot hold one sequence and its last label.
    """
    share = Fraction(str(float(fraction)))  # the decimal as written: 0.1 is exactly a tenth
    asked = math.floor(tokens * (1 - share))
    least, most = sequence_length + 1, tokens - sequence_length - 1
    if not least <= asked <= most:
        raise UserError(
            f"{path}: data.validation_fraction {fraction} of {tokens:,} tokens leaves {asked:,} to train and "
            f"{tokens - asked:,} to validate on; both need batch.sequence_length + 1 = {least:,}"
            + _remedy(tokens, least, most)
        )
    at_document = nearest_document_start(asked)
    return at_document if least <= at_document <= most else asked


def _remedy(tokens: int, least: int, most: int) -> str:
    if least > most:
        return f"; the longest sequence_length that can be split so is {tokens // 2 - 1:,}"
    smallest, largest = (tokens - most) / tokens, (tokens - least) / tokens
    return f"; fractions from {smallest:.6f} to {largest:.6f} fit"
