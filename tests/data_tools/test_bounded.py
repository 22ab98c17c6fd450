"""Small files are read to a limit, and nothing that is no plain file is waited for."""

import os
import socket
from pathlib import Path

import pytest

from data_tools.bounded import open_regular, parse_json, read_bytes, read_json


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
