"""Helpers of the shard tests that are not fixtures."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_tools.reader import ShardReader


def digests(directory: Path) -> dict[str, str]:
    """The sha256 of every file of a build by relative path, but not of `build.json`, the record of inputs."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "build.json"
    }


def documents(directory: Path) -> list[str]:
    """The text of every document of a shard directory."""
    reader = ShardReader(directory)
    tokenizer, starts = reader.tokenizer(), reader.document_starts(0, len(reader)).tolist()
    texts = []
    for start, stop in zip(starts, [*starts[1:], len(reader)], strict=True):
        ids = reader.read(start, stop).tolist()
        assert ids.index(reader.index.eod_id) == len(ids) - 1
        texts.append(tokenizer.decode(ids))
    return texts


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def refit(directory: Path) -> None:
    """Make the index agree with changed shards, as a forger would: sizes, checksums and fingerprint."""
    from data_tools.index_file import content_fingerprint

    path = directory / "index.json"
    index: dict[str, Any] = json.loads(path.read_text())
    for shard in index["shards"]:
        data = (directory / shard["name"]).read_bytes()
        shard["size"], shard["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    del index["fingerprint"]
    index["fingerprint"] = content_fingerprint(index)
    path.write_text(json.dumps(index))
