"""Small files are read to a limit, and nothing that is no plain file is waited for."""

import gzip
import os
import socket
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from loopback import serve
from shard_files import documents

from data_tools.bounded import open_regular, parse_json, read_bytes, read_json
from data_tools.builder import BuildOptions, build
from data_tools.cache import ShardCache
from data_tools.errors import UserError
from data_tools.reader import ShardReader


def test_a_plain_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"a": [1, 2.5]}')
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 15) == b'{"a": [1, 2.5]}'
    assert read_json(tmp_path / "file") == {"a": [1, 2.5]}
    assert read_bytes("/proc/self/cmdline", 1 << 20)  # its size is 0, says the system


def test_the_limit_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(16))
    with pytest.raises(OSError, match="holds 16 bytes, more than the 15 allowed"):
        read_bytes(tmp_path / "file", 15)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="holds 1,099,511,627,776 bytes, more than the 1,024 allowed"):
        read_bytes(tmp_path / "large", 1024)


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "socket", "a socket"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(OSError, match=f"is {kind} and not a plain file"):
            open_regular(path)
    server.close()
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        (b"[NaN]", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b"[1e999]", "'1e999' is too large"),
        (b"1" * 5000, "4300 digits"),
        (b'"\xff"', "utf-8"),
        (b"", "Expecting value"),
    ],
    ids=["lists", "objects", "twice", "nan", "infinity", "float", "integer", "utf-8", "empty"],
)
def test_text_that_is_no_json_is_a_value_error(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def lines_of(target: Path, length: int, ending: str) -> Path:
    """A small file that stands for one line of `length` characters between two short ones."""
    path = target / f"long.jsonl.{ending}"
    good = b'{"text": "good"}\n'
    pieces = chain([good, b'{"text": "'], repeat(b"a" * (1 << 20), length >> 20), [b'"}\n', good])
    if ending == "gz":
        with gzip.open(path, "wb", 1) as file:
            file.writelines(pieces)
    else:
        with open(path, "wb") as raw, zstandard.ZstdCompressor(19).stream_writer(raw) as packed:
            for piece in pieces:
                packed.write(piece)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_line_that_unpacks_to_gigabytes_is_a_bad_record(
    tmp_path: Path, byte_path: str, ending: str
) -> None:
    """64 kB of zstd stand for 2 GB; the build has 1 GB of address space beyond what Python takes."""
    path = lines_of(tmp_path, 2 << 30 if ending == "zst" else 1 << 30, ending)
    assert path.stat().st_size < 8 << 20
    output, most = tmp_path / "out", ("--bad-records", "skip:1")
    arguments = [
        "data",
        "build",
        "-i",
        str(path),
        "-t",
        byte_path,
        "-o",
        str(output),
        "--workers",
        "1",
        *most,
    ]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "bash", sys.executable, "-m", "pretrain", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "line 2: holds more than 33,554,432 bytes (--line-bytes allows more)" in done.stdout
    assert documents(output) == ["good", "good"]


def test_a_line_or_paragraph_over_the_limit_is_named_and_passed_over(tmp_path: Path, byte_path: str) -> None:
    lines = [b"short\n", b"x" * 101 + b"\n", b"\n", b"y" * 60 + b"\n", b"z" * 60 + b"\n", b"\n", b"w" * 100]
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    for kind, bad, good in (
        ("line", ["line 2"], ["short", "y" * 60, "z" * 60, "w" * 100]),
        ("blank-line", ["line 1", "line 4"], ["w" * 100]),
    ):
        options = BuildOptions(
            (str(tmp_path / "a.txt"),),
            byte_path,
            str(tmp_path / kind),
            workers=1,
            max_bad_records=2,
            document=kind,
            line_bytes=101,
        )
        report = build(options)
        assert [record.where for record in report.skipped] == bad
        assert {record.reason for record in report.skipped} == {
            "holds more than 101 bytes (--line-bytes allows more)"
        }
        assert documents(tmp_path / kind) == good
    (tmp_path / "b.txt").write_text("whole")
    whole = BuildOptions((str(tmp_path / "b.txt"),), byte_path, str(tmp_path / "whole"), line_bytes=101)
    with pytest.raises(
        UserError, match=r"--line-bytes 101: has no effect on \.txt files that are read whole"
    ):
        build(whole)


def test_a_long_row_of_parquet_is_a_bad_record(tmp_path: Path, byte_path: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b" * 102, "c"]}), tmp_path / "a.parquet")
    options = BuildOptions(
        (str(tmp_path / "a.parquet"),), byte_path, str(tmp_path / "out"), workers=1, line_bytes=101
    )
    with pytest.raises(UserError, match=r"a.parquet, row 2: holds more than 101 bytes"):
        build(options)


def test_the_limits_of_an_index(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "in.txt").write_text("text")
    shards = tmp_path / "served" / "shards"
    build(BuildOptions((str(tmp_path / "in.txt"),), byte_path, str(shards), workers=1))
    index, way_out = shards / "index.json", "divide the data between several shard directories"
    cache = ShardCache(tmp_path / "cache", 1 << 30)
    with serve(shards.parent) as server:
        with open(index, "r+b") as file:
            file.truncate(10 << 30)
        with pytest.raises(UserError, match="holds 10,737,418,240 bytes, more than the 134,217,728 allowed"):
            ShardReader(shards)
        with pytest.raises(UserError, match=r"index\.json: holds more than the 134,217,728 bytes allowed"):
            ShardReader(f"{server.url}/shards", cache)
        index.write_bytes(b"[" + b"[],[]," * 2_000_000 + b"[]]")
        for where, kept in ((str(shards), None), (f"{server.url}/shards", cache)):
            with pytest.raises(UserError, match=f"bytes of memory for its values are more .*{way_out}"):
                ShardReader(where, kept)
