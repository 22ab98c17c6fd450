"""Random access gives the stream that was written, and nothing else."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_files import documents

from data_tools.builder import BuildOptions, build
from data_tools.errors import IntegrityError
from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer


def stream(texts: list[str], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens and the document starts that a build of these texts must give."""
    tokens: list[int] = []
    starts = []
    for text in texts:
        starts.append(len(tokens))
        tokens += [*tokenizer.encode(text), tokenizer.eod_id]
    return tokens, starts


def test_reads_the_stream(shards: Path, texts: list[str], tokenizers: dict[str, Tokenizer]) -> None:
    reader = ShardReader(shards)
    tokens, starts = stream(texts, tokenizers["bpe"])
    assert len(reader) == len(tokens) == reader.index.tokens
    assert reader.read(0, len(reader)).tolist() == tokens
    assert reader.read(0, 0).shape == reader.read(len(reader), len(reader)).shape == (0,)
    assert reader.read(3, 9).dtype == np.uint16
    assert reader.document_starts(0, len(reader)).tolist() == starts
    assert reader.index.documents == len(texts)
    assert reader.index.bytes == sum(len(text.encode()) for text in texts)
    assert reader.index.words == sum(len(text.split()) for text in texts)
    assert documents(shards) == texts
    assert len(reader.index.shards[0].blocks) > 3

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(tokens)), st.integers(0, len(tokens)))
    def check(one: int, two: int) -> None:
        start, stop = min(one, two), max(one, two)
        assert reader.read(start, stop).tolist() == tokens[start:stop]
        assert reader.document_starts(start, stop).tolist() == [p for p in starts if start <= p < stop]
        nearest = reader.nearest_document_start(start)
        assert nearest in starts
        assert abs(nearest - start) == min(abs(p - start) for p in starts)

    check()


def test_outside_the_stream(shards: Path) -> None:
    reader = ShardReader(shards)
    for start, stop in ((-1, 2), (0, len(reader) + 1), (5, 4)):
        with pytest.raises(IndexError):
            reader.read(start, stop)
        with pytest.raises(IndexError):
            reader.document_starts(start, stop)
    with pytest.raises(IndexError):
        reader.nearest_document_start(-1)


def test_one_document_longer_than_blocks(tmp_path: Path, byte_path: str, jsonl: Callable[..., str]) -> None:
    text = "0123456789" * 1000
    build(BuildOptions((jsonl([text]),), byte_path, str(tmp_path / "out"), workers=1, block_tokens=1024))
    reader = ShardReader(tmp_path / "out")
    assert documents(tmp_path / "out") == [text]
    assert [block.docs for block in reader.index.shards[0].blocks] == [1] + [0] * 9
    assert reader.nearest_document_start(9_000) == 0
    assert reader.document_starts(1, len(reader)).tolist() == []


def test_few_shards_stay_open(
    tmp_path: Path, byte_path: str, jsonl: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_tools.blocks.BLOCKS_PER_SHARD", 1)
    monkeypatch.setattr("data_tools.maps.MAX_OPEN_SHARDS", 2)
    texts = [chr(97 + number) * 1500 for number in range(12)]
    build(BuildOptions((jsonl(texts),), byte_path, str(tmp_path / "out"), workers=1, block_tokens=1024))
    reader = ShardReader(tmp_path / "out")
    assert len(reader.index.shards) > 10
    held = reader.read(0, 1000)
    assert documents(tmp_path / "out") == texts
    assert reader.read(0, len(reader)).shape == (len(reader),)
    assert len(reader._maps) == 2
    assert len(reader._views) <= 2
    assert held.tolist() == [97] * 1000  # a view outlives the eviction of its shard


def test_travels_to_other_processes(shards: Path) -> None:
    reader = ShardReader(shards)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read(0, 100).tolist() == reader.read(0, 100).tolist()
    assert copy.fingerprint == reader.fingerprint


def test_damaged_shards_are_named(shards: Path, tmp_path: Path) -> None:
    shard = shards / "000000-000.tar"
    data = shard.read_bytes()
    for content, message in (
        (b"", "0 bytes, the index expects"),
        (data[:-1], f"{len(data) - 1} bytes, the index expects"),
    ):
        shard.write_bytes(content)
        with pytest.raises(IntegrityError, match=rf"000000-000\.tar: {message}"):
            ShardReader(shards)
    shard.unlink()
    with pytest.raises(IntegrityError, match=r"000000-000\.tar: missing"):
        ShardReader(shards)
    (tmp_path / "elsewhere.tar").write_bytes(data)
    os.symlink(tmp_path / "elsewhere.tar", shard)
    with pytest.raises(IntegrityError, match=r"000000-000\.tar: is a link"):
        ShardReader(shards)


def test_a_shard_that_shrinks_after_the_start_is_named(shards: Path) -> None:
    reader = ShardReader(shards)
    (shards / "000000-000.tar").write_bytes(b"")
    with pytest.raises(IntegrityError, match="0 bytes"):
        reader.read(0, 1)


def test_another_tokenizer_is_refused(shards: Path, byte_path: str) -> None:
    reader = ShardReader(shards)
    shutil.rmtree(shards / "tokenizer")
    with pytest.raises(IntegrityError, match="own tokenizer cannot be read"):
        reader.tokenizer()
    shutil.copytree(byte_path, shards / "tokenizer")
    with pytest.raises(IntegrityError, match="but the shards were built with"):
        reader.tokenizer()
