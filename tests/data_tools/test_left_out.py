"""What lies in an input folder is read, or left out with its ending, count and bytes."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard
from shard_files import documents
from typer.testing import CliRunner

from data_tools.builder import BuildOptions, build
from data_tools.clean.cleaner import clean
from data_tools.clean.options import CleanOptions
from data_tools.cli import app
from data_tools.errors import UserError
from data_tools.images.sources import find_images
from data_tools.left_out import HIDDEN
from data_tools.sources import find_inputs

LINE = b'{"text": "from C4", "url": "u"}\n'


def run(*inputs: Path | str, tokenizer: str, output: Path, **options: Any) -> Any:
    return build(BuildOptions(tuple(map(str, inputs)), tokenizer, str(output), **{"workers": 1, **options}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c4-train.00000-of-01024.json.gz", gzip.compress(LINE * 2)),
        ("a.json", LINE * 2),
        ("a.json", b"\xef\xbb\xbf\n" + LINE + b"\n" + LINE),
        ("a.json.zst", zstandard.compress(LINE * 2)),
        ("a.ndjson", LINE * 2),
        ("part-00000", LINE * 2),
        ("long.json", b'{"text": "from C4", "more": "' + b"x" * 100_000 + b'"}\n' + LINE),
    ],
    ids=["gz", "json", "with a mark and blank lines", "zst", "ndjson", "no ending", "long line"],
)
def test_json_lines_are_read_whatever_the_ending(
    tmp_path: Path, byte_path: str, name: str, content: bytes
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    for number, source in enumerate((tmp_path / "in", tmp_path / "in" / name)):
        report = run(source, tokenizer=byte_path, output=tmp_path / f"out{number}")
        assert report.left_out.files == 0
        assert documents(tmp_path / f"out{number}") == ["from C4", "from C4"]


def test_json_that_is_no_lines_is_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    (tmp_path / "list.json").write_text('[{"text": "a"},\n{"text": "b"}]')
    (tmp_path / "pretty.json").write_text(json.dumps({"text": "a"}, indent=1))
    (tmp_path / "data.bin.gz").write_bytes(gzip.compress(bytes(100)))
    (tmp_path / "README").write_text("hello")
    found = find_inputs([str(tmp_path)])
    assert [Path(file.url).name for file in found.files] == ["a.txt"]
    sizes = {name: (tmp_path / name).stat().st_size for name in ("list.json", "pretty.json", "data.bin.gz")}
    assert found.left_out.kinds == {
        ".json": (2, sizes["list.json"] + sizes["pretty.json"]),
        ".bin.gz": (1, sizes["data.bin.gz"]),
        "without an ending": (1, 5),
    }
    with pytest.raises(UserError, match=r"list\.json: unknown ending; known are \.txt"):
        find_inputs([str(tmp_path / "list.json")])


def test_a_damaged_json_gz_is_no_file_that_is_left_out(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json.gz").write_bytes(gzip.compress(LINE)[:12])
    (tmp_path / "in" / "b.txt").write_text("good")
    for skip in (0, 5):
        with pytest.raises(UserError, match=r"a\.json\.gz, line 1: cannot be read to its end"):
            run(tmp_path / "in", tokenizer=byte_path, output=tmp_path / "out", max_bad_records=skip)


def test_more_left_out_than_read_is_refused_unless_told(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("short")
    (tmp_path / "in" / "all.csv").write_text("x" * 2000)
    arguments = ["--input", str(tmp_path / "in"), "--output"]
    runner = CliRunner()
    for command in (
        ["build", "--tokenizer", byte_path, "--workers", "1"],
        ["clean", "--quality", "none", "--no-near", "--workers", "1"],
        ["tokenizer", "--model-type", "char"],
    ):
        output = str(tmp_path / command[0])
        refused = runner.invoke(app, [*command, *arguments, output]).exception
        assert isinstance(refused, UserError) and refused.exit_code == 2
        assert "--input: 2 kB are left out, more than the 5 B that are read: 1 .csv (2 kB)" in str(refused)
        allowed = runner.invoke(app, [*command, *arguments, output, "--allow-left-out"])
        assert allowed.exit_code == 0, allowed.exception
        assert "1 file in input folders left out: 1 .csv (2 kB)" in allowed.output
    assert json.loads((tmp_path / "clean" / "report.json").read_text())["left_out"] == {".csv": [1, 2000]}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x" * 10)
    (tmp_path / "photos" / "b.heic").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match=r"11 B are left out, more than the 10 B that are read: 1 \.heic"):
        find_images((str(tmp_path / "photos"),), labels=True)
    assert find_images((str(tmp_path / "photos"),), True, allow_left_out=True).left_out.files == 1


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "._a.txt",
        ".ipynb_checkpoints/a-checkpoint.txt",
        "__MACOSX/deep/a.txt",
        "b/.x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    for url in (str(tmp_path), f"file://{tmp_path}"):
        found = find_inputs([url])
        assert [file.url.rpartition(f"{tmp_path}/")[2] for file in found.files] == ["a.txt"]
        assert found.left_out.kinds == {HIDDEN: (4, 20)}
    os.symlink(".ipynb_checkpoints", tmp_path / "seen")  # what a visible link names is read
    assert len(find_inputs([str(tmp_path)]).files) == 2
    assert len(find_inputs([str(tmp_path / ".ipynb_checkpoints")]).files) == 1  # named: meant
    assert len(find_inputs([f"file://{tmp_path}/*.txt"]).files) == 1
    assert len(find_inputs([f"file://{tmp_path}/._a.txt"]).files) == 1
    (tmp_path / "classes" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "classes" / "cat").mkdir()
    for name in (".ipynb_checkpoints/1-checkpoint.png", "cat/1.png"):
        (tmp_path / "classes" / name).write_bytes(b"png")
    images = find_images((str(tmp_path / "classes"),), labels=True)
    assert [file.label for file in images.files] == ["cat"]
    assert images.left_out.kinds == {HIDDEN: (1, 3)}


def test_what_lies_in_folders_that_a_pattern_matches_is_told(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    with pytest.raises(
        UserError, match=r"10 B are left out, .* 2 in folders that a pattern matches \(10 B\)"
    ):
        find_inputs([str(tmp_path / "*")])
    found = find_inputs([str(tmp_path / "*")], allow_left_out=True)
    assert (len(found.files), found.left_out.files) == (1, 2)
    for pattern in ("**", "**/*", "**/*.txt"):
        found = find_inputs([str(tmp_path / pattern)])
        assert (len(found.files), found.left_out.files) == (3, 0), pattern
    with pytest.raises(UserError, match=r"s\*: no file ends in .*; left out: 2 in folders"):
        find_inputs([str(tmp_path / "s*")])


def test_reports_of_a_cleaning_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 20)
    clean(
        CleanOptions((str(tmp_path / "a.txt"),), str(tmp_path / "clean"), workers=1, quality=(), near=False)
    )
    assert (tmp_path / "clean" / "report.json").exists()
    found = find_inputs([str(tmp_path / "clean")])
    assert (len(found.files), found.left_out.kinds) == (1, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text("{\n}")
    (tmp_path / "other" / "a.txt").write_text("text")
    assert find_inputs([str(tmp_path / "other")]).left_out.kinds == {".json": (1, 3)}
