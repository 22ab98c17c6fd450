"""Every format gives the same documents, and every number of workers the same bytes."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import digests, documents

from data_tools import builder, partition
from data_tools.bad_records import BadRecord
from data_tools.builder import BuildOptions, BuildReport, build
from data_tools.errors import IntegrityError, UserError
from data_tools.partition import Unit, make_partitions
from data_tools.reader import ShardReader
from data_tools.records import Document, ReadOptions, read_documents
from data_tools.sources import InputFile, find_inputs
from data_tools.tokenizer import Tokenizer


def run(inputs: list[Path | str], tokenizer: str, output: Path, **options: object) -> BuildReport:
    arguments = {"workers": 1, "block_tokens": 2048, **options}
    return build(BuildOptions(tuple(map(str, inputs)), tokenizer, str(output), **arguments))  # type: ignore[arg-type]


def write_formats(folder: Path, texts: list[str]) -> dict[str, Path]:
    """The same documents as .jsonl, .jsonl.gz, .jsonl.zst (of two frames), .parquet and a folder of .txt."""
    lines = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()
    paths = {name: folder / name for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "folder")}
    paths["a.jsonl"].write_bytes(lines)
    paths["b.jsonl.gz"].write_bytes(gzip.compress(lines))
    frames = [zstandard.compress(lines[:5000]), zstandard.compress(lines[5000:])]
    paths["c.jsonl.zst"].write_bytes(b"".join(frames))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), paths["d.parquet"], row_group_size=3)
    for number, text in enumerate(texts):
        path = paths["folder"] / f"sub{number // 5}" / f"{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return paths


def test_every_format_gives_the_same_shards(tmp_path: Path, texts: list[str], tokenizer_path: str) -> None:
    expected: dict[str, str] = {}
    paths: dict[str, Path | str] = dict(write_formats(tmp_path, texts))
    paths["glob"] = str(tmp_path / "folder" / "**" / "*.txt")
    paths["file-url"] = f"file://{tmp_path}/a.jsonl"
    os.symlink(tmp_path / "a.jsonl", tmp_path / "link.jsonl")
    paths["link"] = tmp_path / "link.jsonl"
    for name, path in paths.items():
        output = tmp_path / "out" / name
        run([path], tokenizer_path, output)
        assert documents(output) == texts, name
        expected = expected or digests(output)
        assert digests(output) == expected, name
    assert set(expected) == {
        "000000-000.tar",
        "index.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer.model",
    }


def test_memory_urls(tmp_path: Path, texts: list[str], tokenizer_path: str) -> None:
    import fsspec

    with fsspec.open("memory://corpus/one.jsonl", "wb") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    for number, url in enumerate(("memory://corpus/one.jsonl", "memory://corpus", "memory://corpus/*.jsonl")):
        run([url], tokenizer_path, tmp_path / str(number), workers=0)
        assert documents(tmp_path / str(number)) == texts
    with pytest.raises(UserError, match="use --workers 1"):
        run(["memory://corpus"], tokenizer_path, tmp_path / "two", workers=2)
    for url in ("memory://none", "nosuchprotocol://x"):
        with pytest.raises(UserError, match=f"--input {url}"):
            run([url], tokenizer_path, tmp_path / "none")


def test_documents_of_text_files(tmp_path: Path, byte_path: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\n\n \n\nthree\nfour\n")
    expected = {
        "file": ["one\r\ntwo\n\n \n\nthree\nfour\n"],
        "line": ["one", "two", "three", "four"],
        "blank-line": ["one\r\ntwo", "three\nfour"],
    }
    for kind, texts in expected.items():
        run([path], byte_path, tmp_path / kind, document=kind)
        assert documents(tmp_path / kind) == texts


def test_odd_texts_survive(tmp_path: Path, tokenizer_path: str, jsonl: Callable[..., str]) -> None:
    texts = ["\x00a\x00", "  ", "\n", "\u2581", "a\u2028b", "<|endoftext|>", "\ufeffx"]
    report = run([jsonl([*texts, "", ""])], tokenizer_path, tmp_path / "out")
    assert documents(tmp_path / "out") == texts
    assert (report.index.documents, report.empty_documents) == (7, 2)
    assert report.index.words == sum(len(text.split()) for text in texts)


def test_large_vocabularies_take_four_bytes(
    tmp_path: Path, jsonl: Callable[..., str], byte_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_tools.index.token_dtype", lambda size: "uint32")
    monkeypatch.setattr("data_tools.blocks.token_dtype", lambda size: "uint32")
    monkeypatch.setattr(builder, "token_dtype", lambda size: "uint32")
    run([jsonl(["abc"])], byte_path, tmp_path / "out")
    assert ShardReader(tmp_path / "out").read(0, 4).dtype == "uint32"
    assert documents(tmp_path / "out") == ["abc"]


def test_an_id_beyond_the_vocabulary_is_not_written(
    tmp_path: Path, jsonl: Callable[..., str], byte_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Tokenizer.encode_segment
    monkeypatch.setattr(Tokenizer, "encode_segment", lambda self, text: encode(self, text) + 200)
    with pytest.raises(IntegrityError, match="gave id 299, outside its vocabulary of 257"):
        run([jsonl(["abc"])], byte_path, tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()


@pytest.mark.slow
def test_the_number_of_workers_does_not_show(
    tmp_path: Path, texts: list[str], tokenizer_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 4_000)
    paths: list[Path | str] = [*write_formats(tmp_path, texts).values()]
    builds = {n: run(paths, tokenizer_path, tmp_path / f"out{n}", workers=n) for n in (1, 2, 3)}
    assert builds[1].partitions > 10
    assert documents(tmp_path / "out1") == texts * 5
    assert digests(tmp_path / "out1") == digests(tmp_path / "out2") == digests(tmp_path / "out3")
    assert len(digests(tmp_path / "out1")) > 12


def test_many_small_files_share_shards(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(300):
        (tmp_path / "in" / f"{number:04d}.txt").write_text(f"text {number}")
    (tmp_path / "in" / "README.md").write_text("left out")
    report = run([tmp_path / "in"], byte_path, tmp_path / "out")
    assert len(report.index.shards) == 1
    assert (report.files, report.left_out.files) == (300, 1)
    assert documents(tmp_path / "out") == [f"text {number}" for number in range(300)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab\r é", max_size=12), max_size=30), st.integers(1, 60), st.booleans())
def test_byte_ranges_lose_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], step: int, newline_at_end: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "ranges.txt"
    path.write_bytes("\n".join(lines).encode() + b"\n" * newline_at_end)
    file = InputFile(str(path), path.stat().st_size, "txt", None, "")

    def read(unit: Unit) -> list[str]:
        records = list(read_documents(unit, ReadOptions("text", "line")))
        assert all(isinstance(record, Document) for record in records)
        return ["".join(record.parts) for record in records if isinstance(record, Document)]

    whole = read(Unit(file, 0, None, 0))
    assert whole == [line.removesuffix("\r") for line in lines if line.strip()]
    pieces = [read(Unit(file, start, start + step, 0)) for start in range(0, max(file.size, 1), step)]
    assert [text for piece in pieces for text in piece] == whole


def test_bad_lines_keep_their_number_in_byte_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 64)
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "x" * (number % 30)}) for number in range(100)]
    bad = {7, 40, 41, 99}
    path.write_text("\n".join("{" if number in bad else line for number, line in enumerate(lines)))
    found = set()
    partitions = make_partitions(find_inputs([str(path)]).files, "file")
    assert len(partitions) > 10
    for part in partitions:
        for unit in part.units:
            for record in read_documents(unit, ReadOptions("text", "file")):
                if isinstance(record, BadRecord):
                    found.add(record.where)
    assert found == {f"line {number + 1}" for number in bad}


def test_partitions_cover_everything_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 100)
    monkeypatch.setattr(partition, "LARGEST_TARGET", 100)
    sizes = [10, 250, 0, 99, 1, 1, 500]
    files = tuple(InputFile(f"{number}.jsonl", size, "jsonl", None, "") for number, size in enumerate(sizes))
    units = [unit for part in make_partitions(files, "file") for unit in part.units]
    assert [unit.file.url for unit in units] == sorted(unit.file.url for unit in units)
    assert sum(unit.weight for unit in units) == sum(sizes)
    assert max(part.weight for part in make_partitions(files, "file")) < 200
    table = pyarrow.table({"text": ["x"] * 50})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    parts = make_partitions(find_inputs([str(tmp_path / "a.parquet")]).files, "file")
    ranges = [(unit.start, unit.stop) for part in parts for unit in part.units]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 5
    assert len(ranges) > 1


@pytest.mark.slow
def test_a_line_of_100_mb(tmp_path: Path, byte_path: str, tokenizer_path: str) -> None:
    path = tmp_path / "long.jsonl"
    long = {"text": "0123456789 abcd\x00" * 6_250_000}
    path.write_text(json.dumps(long) + "\n" + json.dumps({"text": "end"}) + "\n")
    report = run([path], byte_path, tmp_path / "bytes", block_tokens=1 << 20, line_bytes=200_000_000)
    assert report.index.bytes == 100_000_003
    assert ShardReader(tmp_path / "bytes").document_starts(0, report.index.tokens).tolist() == [
        0,
        100_000_001,
    ]
    endless = tmp_path / "endless.txt"
    endless.write_text("x" * 20_000_000)
    assert run([endless], tokenizer_path, tmp_path / "out", block_tokens=1 << 20).index.words == 1


MEMORY = r"""
import re, sys
from data_tools.builder import BuildOptions, build
build(BuildOptions((sys.argv[1],), sys.argv[2], sys.argv[3], workers=1, document=sys.argv[4]))
print(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "line"])
def test_memory_is_flat_as_input_grows(tmp_path: Path, byte_path: str, kind: str) -> None:
    peaks = []
    for factor in (1, 4):
        path = tmp_path / f"{factor}.txt"
        path.write_text(
            "A line of text, of no importance, but repeated.\n"
            * (500_000 * factor if kind == "file" else 100_000 * factor)
        )
        arguments = [str(path), byte_path, str(tmp_path / f"out{factor}"), kind]
        command = [sys.executable, "-c", MEMORY, *arguments]
        result = subprocess.run(command, capture_output=True, check=True, text=True)
        peaks.append(int(result.stdout))
    assert peaks[1] < 1.1 * peaks[0] + 5_000
