"""Whatever is done to a shard directory, verify names it."""

import io
import json
import os
import random
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_files import overwrite, refit

from data_tools.blocks import npy_bytes
from data_tools.builder import BuildOptions, build
from data_tools.index import read_index
from data_tools.show import describe
from data_tools.verify import verify

NAME = "000000-000.tar"


def rewrite(directory: Path, change: Any) -> None:
    """Write the shard again with `change` applied to its list of (name, data), and forge the index."""
    shard = directory / NAME
    with tarfile.open(shard) as tar:
        members = [(m.name, file.read()) for m in tar.getmembers() if (file := tar.extractfile(m))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in change(members):
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
    shard.write_bytes(buffer.getvalue())
    refit(directory)


def test_a_good_directory(shards: Path) -> None:
    assert verify(str(shards)).faults == ()


@pytest.mark.slow
def test_workers_find_the_same(
    tmp_path: Path, texts: list[str], byte_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_tools.partition.SMALLEST_TARGET", 5_000)
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build(BuildOptions((str(source),), byte_path, str(tmp_path / "out"), workers=1))
    assert verify(str(tmp_path / "out"), 2).faults == ()
    for name in ("000001-000.tar", "000003-000.tar"):
        overwrite(tmp_path / "out" / name, 2000, b"\xff")
    faults = verify(str(tmp_path / "out"), 2).faults
    assert faults == verify(str(tmp_path / "out"), 1).faults
    assert [fault.split(":")[0] for fault in faults if "bytes have changed" in fault] == [
        "000001-000.tar",
        "000003-000.tar",
    ]


def test_every_flipped_bit_is_found(shards: Path) -> None:
    data = (shards / NAME).read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        place = generator.randrange(len(data))
        overwrite(shards / NAME, place, bytes([data[place] ^ (1 << generator.randrange(8))]))
        faults = verify(str(shards)).faults
        assert faults[0].startswith(f"{NAME}: its bytes have changed: sha256"), (place, faults)
        overwrite(shards / NAME, place, data[place : place + 1])
    assert verify(str(shards)).faults == ()


def test_missing_truncated_foreign_and_linked_shards(shards: Path, tmp_path: Path) -> None:
    shard, data = shards / NAME, (shards / NAME).read_bytes()
    shutil.copy(shard, shards / "000007-000.tar")
    shard.write_bytes(data[: len(data) // 2])
    faults = verify(str(shards)).faults
    assert faults[0].startswith("000007-000.tar: not in the index")
    assert faults[1].startswith(f"{NAME}: {len(data) // 2} bytes, the index expects {len(data)}")
    shard.unlink()
    assert any(fault.startswith(f"{NAME}: missing") for fault in verify(str(shards)).faults)
    (tmp_path / "real.tar").write_bytes(data)
    os.symlink(tmp_path / "real.tar", shard)
    assert any(fault.startswith(f"{NAME}: is a link") for fault in verify(str(shards)).faults)


def with_array(place: int, array: "np.ndarray[Any, Any]") -> Any:
    return lambda members: [*members[:place], (members[place][0], npy_bytes(array)[0]), *members[place + 1 :]]


def test_forged_shards_with_fitting_checksums(shards: Path) -> None:
    index = read_index(shards)
    block = index.shards[0].blocks[0]
    reference = (shards / NAME).read_bytes(), (shards / "index.json").read_bytes()
    tokens = np.frombuffer(reference[0], "<u2", block.tokens, block.tokens_offset)
    docs = np.frombuffer(reference[0], "<i8", block.docs, block.docs_offset)
    beyond, moved, unended, ended = tokens.copy(), docs.copy(), tokens.copy(), tokens.copy()
    ended[20] = index.eod_id  # a document that no start is listed for
    assert 21 not in docs
    beyond[[5, 9]], moved[0] = index.vocab_size, 7
    unended[np.flatnonzero(tokens == index.eod_id)] = 2
    cases: list[tuple[Any, str]] = [
        (
            with_array(1, beyond),
            rf"token 5 is {index.vocab_size}, outside the vocabulary of .* \(and 1 more\)",
        ),
        (with_array(1, unended), "disagree at token"),
        (with_array(0, moved), "disagree at token 7"),
        (with_array(1, ended), "disagree at token 21"),
        (with_array(0, docs - 1), "not ascending positions within the block"),
        (with_array(1, tokens.astype("<u4")), "holds uint32"),
        (with_array(1, tokens.astype(">u2")), "holds >u2"),
        (with_array(1, tokens.reshape(2, -1)), r"holds uint16 \(2,"),
        (lambda members: [(members[0][0], b"not an array"), *members[1:]], "not an .npy|magic"),
        (lambda members: members[:-1], "its members are not those of the index"),
        (lambda members: [*members, ("../evil.npy", b"x")], "its members are not those of the index"),
        (lambda members: [("x", None), *members], "member 'x' is a link"),
        (lambda members: [*members[2:4], *members[:2], *members[4:]], "not those of the index: their order"),
    ]
    for change, message in cases:
        (shards / NAME).write_bytes(reference[0])
        (shards / "index.json").write_bytes(reference[1])
        rewrite(shards, change)
        faults = verify(str(shards)).faults
        assert faults, message
        assert all(fault.startswith(NAME) for fault in faults), faults
        assert any(re.search(message, fault) for fault in faults), (message, faults)


def test_a_swapped_tokenizer_is_named(shards: Path, byte_path: str) -> None:
    shutil.rmtree(shards / "tokenizer")
    shutil.copytree(byte_path, shards / "tokenizer")
    assert "but the shards were built with" in verify(str(shards)).faults[0]


def test_describe_shows_the_text(shards: Path, texts: list[str]) -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(describe(str(shards), 3))
    shown = console.export_text()
    assert repr(texts[0][:20])[1:-1] in shown
    assert f"{read_index(shards).tokens:,} (uint16)" in shown
    assert NAME in shown
