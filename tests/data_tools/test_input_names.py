"""Names of input files and folders: any bytes that a file system takes."""

import io
import json
import os
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.atomic import write_atomically
from data_tools.bad_records import SKIPPED_NAME
from data_tools.builder import BuildOptions, build
from data_tools.clean.cleaner import clean
from data_tools.clean.options import CleanOptions
from data_tools.errors import UserError
from data_tools.images.builder import ImageBuildOptions, build_images
from data_tools.sources import find_inputs

LATIN = os.fsdecode(b"caf\xe9")
"""As a system wrote it that is not UTF-8."""
ODD = f"{LATIN} ?#%41*[a]{{b}}'\"$x\\n\n\t:,;=&~\u00fc"
NAMES = ["-x", "caf\u00e9", LATIN, "a?b#c%41", "[a]*", "a\nb", "$HOME'\"`", "n" * 200, ODD]


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def skipped(directory: Path) -> list[dict[str, str]]:
    """The lines of skipped.jsonl, which are UTF-8."""
    text = (directory / SKIPPED_NAME).read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_record_is_listed_under_the_name_that_its_file_has(
    tmp_path: Path, byte_path: str, name: str
) -> None:
    folder, output = tmp_path / f"in{name}", tmp_path / f"out{name}"
    folder.mkdir()
    (folder / f"{name}.jsonl").write_text('{"text": "x"}\nbroken\n')
    options = BuildOptions((str(folder),), byte_path, str(output), workers=1, max_bad_records=5)
    report = build(options)
    assert (report.index.documents, len(report.skipped)) == (1, 1)
    [record] = skipped(output)
    assert record["file"] == str(folder / f"{name}.jsonl")
    assert Path(record["file"]).exists()
    assert build(options).index == report.index  # as it lies there


def test_a_finished_cleaning_of_a_foreign_name_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / LATIN
    folder.mkdir()
    (folder / "two.jsonl").write_text('{"text": "x"}\nbroken\n')
    options = CleanOptions((str(folder),), str(tmp_path / "out"), workers=1, max_bad_records=5, quality=())
    first = clean(options)
    assert first.skipped[0].file == str(folder / "two.jsonl")
    assert clean(options) == first


def test_bad_pictures_of_foreign_names_are_listed(tmp_path: Path) -> None:
    """In a folder that is a class, and as the member of a tar."""
    (tmp_path / "in" / LATIN).mkdir(parents=True)
    (tmp_path / "in" / "b").mkdir()
    for folder in (LATIN, "b"):
        (tmp_path / "in" / folder / f"{LATIN}.png").write_bytes(png())
    (tmp_path / "in" / LATIN / "bad.png").write_bytes(b"no picture")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for key, data in ((LATIN, png()), (f"{LATIN}2", b"no picture")):
            for ending, content in (("png", data), ("cls", b"b")):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    inputs = (str(tmp_path / "in"), str(tmp_path / "in.tar"))
    output = tmp_path / "out"
    report = build_images(ImageBuildOptions(inputs, str(output), size=8, workers=1, max_bad_records=5))
    assert (report.index.images, report.index.classes) == (3, ("b", LATIN))
    assert [each["file"] for each in skipped(output)] == [f"{tmp_path}/in/{LATIN}/bad.png", inputs[1]]
    assert skipped(output)[1]["where"] == f"sample {LATIN}2"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_with_a_glob_for_a_name_is_itself(
    tmp_path: Path, byte_path: str, prefix: str, jsonl: Callable[..., str]
) -> None:
    (tmp_path / "gl[1]").mkdir()
    (tmp_path / "gl1").mkdir()
    for name in ("gl[1]/a.txt", "gl[1]/[b]*.txt", "gl[1]/b.txt", "gl1/c.txt"):
        (tmp_path / name).write_text(name)

    def found(argument: str) -> list[str]:
        files = find_inputs([f"{prefix}{tmp_path}/{argument}"]).files
        return [os.path.relpath(file.url.removeprefix("file://"), tmp_path) for file in files]

    every = ["gl[1]/[b]*.txt", "gl[1]/a.txt", "gl[1]/b.txt"]
    assert found("gl[1]") == every
    assert found("gl[1]/a.txt") == ["gl[1]/a.txt"]
    assert found("gl[1]/[b]*.txt") == ["gl[1]/[b]*.txt"]
    if not prefix:  # fsspec's own globs know no folder in them by its name
        assert found("gl[1]/*.txt") == every
    assert found("gl?/*.txt") == ["gl1/c.txt"]


def test_classes_that_look_the_same_are_refused(tmp_path: Path) -> None:
    twins = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    for name in twins:
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "a.png").write_bytes(png())
    with pytest.raises(UserError, match=r"look the same, 'cafe\\u0301' and 'caf\\xe9'"):
        build_images(ImageBuildOptions((str(tmp_path / "in"),), str(tmp_path / "out"), size=8, workers=1))
    assert not (tmp_path / "out").exists()


def test_a_table_shows_brackets_of_a_name(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a.txt").write_text("hello")
    build(BuildOptions((str(tmp_path / "a.txt"),), byte_path, str(tmp_path / "x[red]y"), workers=1))
    command = [sys.executable, "-m", "pretrain", "data", "inspect", "x[red]y"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0].strip() == "x[red]y"


def test_a_name_that_orders_the_terminal_about_is_spelt_out(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a\x1b[2Jb.jsonl").write_text('{"text": "x"}\nbroken\n')
    command = [sys.executable, "-m", "pretrain", "data", "build", "--input", "a\x1b[2Jb.jsonl"]
    command += ["--tokenizer", byte_path, "--output", "out", "--bad-records", "skip:1"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in shown
    assert r"a\x1b[2Jb.jsonl, line 2" in shown


@pytest.mark.parametrize("name", ["n" * 255, "\u00e9" * 127])
def test_a_file_may_have_the_longest_name(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_no_reason_to_go_on(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a.txt").write_text("hello")
    output = str(tmp_path / ("n" * 256))
    with pytest.raises(UserError, match=r"File name too long$"):
        build(BuildOptions((str(tmp_path / "a.txt"),), byte_path, output, workers=1))
