"""Stock webdataset reads every token out of the tars, and its writer would write the same bytes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import webdataset

from data_tools.reader import ShardReader


def test_stock_reader_gives_every_token(shards: Path) -> None:
    reader = ShardReader(shards)
    urls = [str(shards / shard.name) for shard in reader.index.shards]
    tokens, starts, seen = [], [], 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        assert set(sample) >= {"__key__", "tokens.npy", "docs.npy"}
        tokens.append(sample["tokens.npy"])
        starts.append(sample["docs.npy"] + seen)
        seen += len(sample["tokens.npy"])
    assert len(tokens) > 3
    assert tokens[0].dtype == np.uint16
    np.testing.assert_array_equal(np.concatenate(tokens), reader.read(0, len(reader)))
    np.testing.assert_array_equal(np.concatenate(starts), reader.document_starts(0, len(reader)))


def test_stock_writer_writes_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    shard = shards / ShardReader(shards).index.shards[0].name
    with tarfile.open(shard) as ours, webdataset.TarWriter(str(tmp_path / "stock.tar"), mtime=0) as stock:
        for member in ours.getmembers()[::2]:
            key = member.name.removesuffix(".docs.npy")
            arrays = {}
            for part in ("docs.npy", "tokens.npy"):
                file = ours.extractfile(f"{key}.{part}")
                assert file is not None
                arrays[part] = np.load(io.BytesIO(file.read()), allow_pickle=False)
            stock.write({"__key__": key, **arrays})
    assert (tmp_path / "stock.tar").read_bytes() == shard.read_bytes()
