"""Every kind of bad input ends with one message that names file and line."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from bound import pretrain_bound
from shard_files import documents

from data_tools.builder import BuildOptions, build
from data_tools.errors import UserError

GOOD = b'{"text": "good"}\n'
NOISE = random.Random(1)
BIG = b"".join(json.dumps({"text": NOISE.randbytes(40).hex()}).encode() + b"\n" for _ in range(2000))

BAD_RECORDS: list[tuple[str, bytes, str]] = [
    ("a.jsonl", GOOD + b'{"text": "\xff"}\n' + GOOD, "line 2: not UTF-8: byte 0xff"),
    ("a.jsonl", GOOD * 2 + b'{"text": \n' + GOOD, "line 3: not JSON"),
    ("a.jsonl", b"[" * 100_000 + b"\n" + GOOD, "line 1: not JSON"),
    ("a.jsonl", GOOD + b"[1]\n", "line 2: an array instead of an object"),
    ("a.jsonl", GOOD + b'\n\n{"body": "x"}\n', "line 4: no key 'text'; its keys are 'body'"),
    ("a.jsonl", GOOD + b'{"text": 7}\n', "line 2: 'text' is a number, not text"),
    ("a.jsonl", GOOD + b'{"text": null}\n', "line 2: 'text' is null, not text"),
    ("a.jsonl", GOOD + b'{"text": "\\ud800"}\n', "line 2: 'text' is not valid Unicode"),
    ("a.jsonl.gz", gzip.compress(BIG)[:-3000], r"line \d+: cannot be read to its end"),
    ("a.jsonl.gz", GOOD, "line 1: cannot be read to its end: Not a gzipped file"),
    (
        "a.jsonl.zst",
        zstandard.compress(BIG)[:-3000],
        r"line \d+: cannot be read to its end: compressed file ended",
    ),
    ("a.jsonl.zst", GOOD, "line 1: cannot be read to its end: .*zstd"),
    ("a.txt", b"abc\xe9 def", "a.txt: not UTF-8: byte 0xe9"),
    ("a.txt", b"x" * 5_000_000 + b"\xc3", "a.txt: not UTF-8: byte 0xc3"),
    ("a.txt.gz", gzip.compress(b"text")[:-4], "a.txt.gz: cannot be read to its end"),
    ("a.parquet", b"PAR1 not really PAR1", "a.parquet: cannot be read to its end"),
    ("a.parquet", b"", "a.parquet: cannot be read to its end"),
]
UNREADABLE = {
    ("a.jsonl.gz", "line 1: cannot be read to its end: Not a gzipped file"),
    ("a.jsonl.zst", "line 1: cannot be read to its end: .*zstd"),
    ("a.parquet", "a.parquet: cannot be read to its end"),
}
"""Files of many records of which none can be read."""


def run(path: Path | str, tokenizer: str, output: Path, **options: Any) -> Any:
    return build(BuildOptions((str(path),), tokenizer, str(output), **{"workers": 1, **options}))


# The time is in what gzip writes, so the bytes are no name of a test.
@pytest.mark.parametrize(
    ("name", "data", "message"), BAD_RECORDS, ids=[f"{name}: {message}" for name, _, message in BAD_RECORDS]
)
def test_bad_records_stop_or_are_skipped(
    tmp_path: Path, byte_path: str, name: str, data: bytes, message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(data)
    (folder / "z.txt").write_text("last")
    output = tmp_path / "out"
    with pytest.raises(UserError, match=message) as error:
        run(folder, byte_path, output)
    assert error.value.exit_code == 2
    assert str(error.value).startswith(str(folder / name))
    assert "\n" not in str(error.value)
    assert not (output / "index.json").exists()
    if (name, message) in UNREADABLE:
        with pytest.raises(UserError, match="that is not one bad record: take the file out of --input"):
            run(folder, byte_path, output, max_bad_records=99)
        return
    report = run(folder, byte_path, output, max_bad_records=1)  # the limit may change between attempts
    assert len(report.skipped) == 1
    listed = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert listed == [
        {"file": str(folder / name), "where": report.skipped[0].where, "reason": report.skipped[0].reason}
    ]
    texts = documents(output)
    assert texts[-1] == "last"
    if data.startswith(GOOD):
        assert texts[:-1] == ["good"] * (len(texts) - 1)


def test_parquet_rows(tmp_path: Path, byte_path: str) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["one", None, "three"], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    with pytest.raises(UserError, match=r"a\.parquet, row 2: 'text' is null, not text"):
        run(path, byte_path, tmp_path / "out")
    assert len(run(path, byte_path, tmp_path / "out", max_bad_records=1).skipped) == 1
    assert documents(tmp_path / "out") == ["one", "three"]
    for key, message in (
        ("body", "no column 'body'; its columns are text, n"),
        ("n", "is of type int64, not text"),
    ):
        with pytest.raises(UserError, match=message):
            run(path, byte_path, tmp_path / "other", text_key=key, restart=True)


def test_at_most_n_are_skipped(tmp_path: Path, byte_path: str) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(GOOD + b"{\n" * 3)
    pattern = str(tmp_path / "*.jsonl")
    with pytest.raises(UserError, match=r"b\.jsonl, line 4: .*more than the 5 bad records of --bad-records"):
        run(pattern, byte_path, tmp_path / "out", max_bad_records=5)
    report = run(pattern, byte_path, tmp_path / "out", max_bad_records=6)
    assert [record.where for record in report.skipped] == ["line 2", "line 3", "line 4"] * 2
    assert report.index.documents == 2


def test_inputs_that_are_not_there(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("x")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.jsonl").write_text("\n\n")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    cases = {
        "none.txt": "nothing there matches",
        "*.gone": "nothing there matches",
        "empty": "nothing there matches",
        "other": "no file ends in .txt, .jsonl, .parquet",
        "other/a.md": "unknown ending; known are .txt",
        "empty.txt": "there is no text in it",
        "blank.jsonl": "there is no text in it",
        "broken.txt": "cannot be read: No such file",
        "pipe.txt": "not a plain file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            run(tmp_path / name, byte_path, tmp_path / "out")
        assert not (tmp_path / "out" / ".build").exists()
    assert run(tmp_path / "other", byte_path, tmp_path / "out", input_format="txt").index.bytes == 1


def test_options_without_effect_are_refused(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "a.txt").write_text("x")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("a.jsonl", {"document": "line"}, "--document line: has an effect on .txt alone"),
        ("a.txt", {"text_key": "body"}, "--text-key body: has no effect on .txt"),
        ("a.txt", {"block_tokens": 10}, "--block-tokens 10: at least 1024"),
        ("packed/a.parquet.gz", {"input_format": "parquet"}, "compressed parquet"),
    ]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.parquet.gz").touch()
    for name, options, message in cases:
        with pytest.raises(UserError, match=message):
            run(tmp_path / name, byte_path, tmp_path / "out", **options)
    (tmp_path / "packed" / "a.parquet.gz").unlink()
    with pytest.raises(UserError, match="given twice"):
        build(BuildOptions((str(tmp_path / "a.txt"), str(tmp_path)), byte_path, str(tmp_path / "out")))
    with pytest.raises(UserError, match="not a tokenizer directory"):
        run(tmp_path / "a.txt", str(tmp_path), tmp_path / "out")


def test_no_permission(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "locked").mkdir(mode=0o500)
    for output, mode, message in (
        ("out", 0, "no permission to read it"),
        ("locked/out", 0o600, "cannot be written: Permission denied"),
    ):
        (tmp_path / "a.txt").chmod(mode)
        paths = ["--input", f"{tmp_path}/a.txt", "--tokenizer", byte_path, "--output", f"{tmp_path}/{output}"]
        done = pretrain_bound("data", "build", *paths)
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_zstd_of_a_long_window_is_read(tmp_path: Path, byte_path: str) -> None:
    """As of `zstd --long=31`: the frame declares a window of 2 GiB."""
    frame = zstandard.compress(GOOD * 3)
    assert frame[4] & 0x20, "a frame of a single segment, which declares no window"
    block = frame[6:] if not frame[4] & 0xC0 else frame[7:]
    (tmp_path / "a.jsonl.zst").write_bytes(frame[:4] + b"\x00" + bytes([(31 - 10) << 3]) + block)
    run(tmp_path / "a.jsonl.zst", byte_path, tmp_path / "out")
    assert documents(tmp_path / "out") == ["good"] * 3
