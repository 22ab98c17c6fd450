"""Gathered samples are the tokens that reading one by one gives, wherever they lie."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import refit
from text_shards import build_shards

from data_tools.reader import ShardReader
from pretrain.data.order import make_order
from pretrain.data.sources import TokenRange
from pretrain.gpt.stored import StoredSamples

SAMPLES = 3000  # several chunks
TEXTS = [chr(97 + number) * (100 + 37 * number) for number in range(12)]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One shard of many blocks, and many shards of one block."""
    folder = tmp_path_factory.mktemp("stored")
    one = build_shards(folder / "one", TEXTS, block_tokens=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_tools.blocks.BLOCKS_PER_SHARD", 1)
        many = build_shards(folder / "many", TEXTS[::-1], block_tokens=256)
    return [one, many]


def samples_of(paths: Sequence[Path], length: int, start: int = 0) -> tuple[StoredSamples, list[list[int]]]:
    """Stored samples, and what the first SAMPLES of them must be."""
    readers = [ShardReader(path) for path in paths]
    sources = [TokenRange(reader.path, reader, start, len(reader)) for reader in readers]
    order = make_order(3, [(source.tokens - 1) // length for source in sources], [1.0, 2.5][: len(sources)])
    expected = [
        readers[source].read(start + sample * length, start + sample * length + length + 1).tolist()
        for source, sample in zip(*order.locate(np.arange(SAMPLES)), strict=True)
    ]
    return StoredSamples(sources, order, length), expected


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
@pytest.mark.parametrize("length", [7, 300])  # 300: every sample is split over blocks
def test_samples_are_what_reading_gives(directories: list[Path], which: list[int], length: int) -> None:
    stored, expected = samples_of([directories[k] for k in which], length, start=11)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, SAMPLES - 1), st.integers(1, 200))
    def check(first: int, count: int) -> None:
        ids = range(first, min(first + count, SAMPLES))
        found = stored.read(ids)
        assert found.dtype == np.uint16
        assert found.tolist() == expected[first : ids.stop]

    check()
    assert stored.read(range(SAMPLES)).tolist() == expected
    apart = [SAMPLES // 2, 3, SAMPLES - 1, 3]
    assert stored.read(apart).tolist() == [expected[i] for i in apart]
    assert stored.read(range(9, 0, -3)).tolist() == [expected[i] for i in (9, 6, 3)]


def test_what_is_handed_out_is_the_callers_own(directories: list[Path]) -> None:
    stored, expected = samples_of(directories, 7)
    stored.read(range(50))[:] = 0
    assert stored.read(range(50)).tolist() == expected[:50]


def test_tokens_at_odd_bytes_are_read_all_the_same(tmp_path: Path) -> None:
    path = build_shards(tmp_path / "odd", TEXTS, block_tokens=256)
    index = json.loads((path / "index.json").read_text())
    for shard in index["shards"]:
        (path / shard["name"]).write_bytes(b"?" + (path / shard["name"]).read_bytes())
        for block in shard["blocks"]:
            block["tokens_offset"] += 1
            block["docs_offset"] += 1
    (path / "index.json").write_text(json.dumps(index))
    refit(path)
    stored, expected = samples_of([path], 7)
    assert stored.read(range(100)).tolist() == expected[:100]
