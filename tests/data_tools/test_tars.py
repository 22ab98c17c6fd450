"""Every byte of a tar of images is read, counted as left out, or part of a bad record."""

import bz2
import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_tools.errors import UserError
from data_tools.images.builder import ImageBuildOptions, ImageReport, build_images
from data_tools.images.reader import ImageReader
from data_tools.left_out import HIDDEN, METADATA

Members = list[tuple[str, bytes]]


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int) -> Members:
    return [(f"{number:03d}.png", picture(10 * number)), (f"{number:03d}.cls", b"%d" % (number % 2))]


TWO = [*sample(0), *sample(1)]


def tar_of(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def run(tmp_path: Path, content: bytes, name: str = "x.tar", **options: Any) -> ImageReport:
    (tmp_path / name).write_bytes(content)
    number = len(list(tmp_path.glob("out*")))
    return build_images(
        ImageBuildOptions((str(tmp_path / name),), str(tmp_path / f"out{number}"), 4, workers=1, **options)
    )


def values(tmp_path: Path) -> list[int]:
    """The grey of each image of the last build."""
    output = max(tmp_path.glob("out*"), key=lambda path: int(path.name[3:]))
    reader = ImageReader(output)
    return [int(reader.pixels(number)[0, 0, 0]) for number in range(reader.index.images)]


ORDINARY: dict[str, tuple[Members, Mapping[str, tuple[int, int]]]] = {
    "folders": ([("train/", b""), *((f"train/{name}", data) for name, data in TWO)], {}),
    "dot folders": (
        [("./", b""), ("./__meta__/i.json", b"{}"), *((f"./{name}", data) for name, data in TWO)],
        {METADATA: (1, 2)},
    ),
    "metadata": ([("__meta__/info.json", b"{}"), ("__seed__", b"7"), *TWO], {METADATA: (2, 3)}),
    "AppleDouble": (
        [("._000.png", b"123"), TWO[0], ("._000.cls", b"45"), *TWO[1:]],
        {HIDDEN: (2, 5)},
    ),
    "readme": (
        [("README.txt", b"hi"), ("LICENSE", b"MIT"), *TWO],
        {".txt": (1, 2), "without an ending": (1, 3)},
    ),
    "captions": ([*sample(0), ("000.txt", b"a cat"), *sample(1)], {".txt beside pictures": (1, 5)}),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_tars_are_read_as_the_stock_library_reads_them(tmp_path: Path, name: str) -> None:
    members, left_out = ORDINARY[name]
    report = run(tmp_path, tar_of(members))
    assert values(tmp_path) == [0, 10]
    assert report.left_out.kinds == left_out
    stock = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    assert [each["png"] for each in stock if "png" in each] == [picture(0), picture(10)]


def test_what_tar_itself_writes_is_read(tmp_path: Path) -> None:
    """A folder with a hard link, which the stock library passes over: here its picture is not lost."""
    (tmp_path / "folder").mkdir()
    for name, data in [*TWO, ("002.cls", b"0")]:
        (tmp_path / "folder" / name).write_bytes(data)
    os.link(tmp_path / "folder" / "001.png", tmp_path / "folder" / "002.png")
    for number, (place, what) in enumerate(((".", "folder"), ("folder", "."))):
        target = tmp_path / f"{number}.tar"
        subprocess.run(["tar", "--sort=name", "-cf", target, "-C", tmp_path / place, what], check=True)
        with tarfile.open(target) as tar:
            assert tarfile.LNKTYPE in {member.type for member in tar}
        assert run(tmp_path, target.read_bytes()).left_out.kinds == {}
        assert values(tmp_path) == [0, 10, 10]


def test_tars_that_are_compressed_as_a_whole_are_read(tmp_path: Path) -> None:
    content = tar_of(TWO)
    for name, packed in (
        ("a.tar", gzip.compress(content)),
        ("a.tar.gz", gzip.compress(content)),
        ("a.tgz", gzip.compress(content)),
        ("a.tar", bz2.compress(content)),
    ):
        run(tmp_path, packed, name)
        assert values(tmp_path) == [0, 10]
    with pytest.raises(UserError, match=r"a\.tgz.*: cannot be read to its end"):
        run(tmp_path, gzip.compress(content)[:-40], "a.tgz")


BAD: dict[str, tuple[Members, str]] = {
    "two of a name": ([("000.png", picture(9)), *TWO], "sample 000: holds 2 images instead of one"),
    "two of a case": ([("000.PNG", picture(9)), *TWO], "sample 000: holds 2 images instead of one"),
    "two classes": ([("000.cls", b"1"), *TWO], "sample 000: holds 2 classes instead of one"),
    "appended": ([*TWO, ("000.png", picture(9))], "sample 000: comes at 2 places of the tar"),
    "unsorted": ([TWO[0], TWO[2], TWO[1], TWO[3]], "sample 000: comes at 2 places of the tar"),
    "dots": ([("v1.0.png", picture(1)), *TWO], r"sample v1: holds 0 images .*ends at the first dot"),
    "a class alone": ([*TWO, ("002.cls", b"1")], "sample 002: holds 0 images instead of one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sample_is_a_bad_record(tmp_path: Path, name: str) -> None:
    members, said = BAD[name]
    with pytest.raises(UserError, match=said):
        run(tmp_path, tar_of(members))


def test_a_picture_that_is_not_there_is_a_bad_record(tmp_path: Path) -> None:
    buffer = io.BytesIO(tar_of(TWO))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for name, kind, target in (
            ("002.png", tarfile.SYMTYPE, "000.png"),
            ("003.png", tarfile.LNKTYPE, "x"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    report = run(tmp_path, buffer.getvalue(), max_bad_records=2, labels=False)
    assert [record.reason for record in report.skipped] == [
        "002.png is not a plain file",
        "003.png is not a plain file",
    ]
    assert report.index.images == 2


def test_what_stands_behind_an_end_mark_is_read_too(tmp_path: Path) -> None:
    """`cat a.tar b.tar`: the second was dropped."""
    run(tmp_path, tar_of(TWO) + tar_of([*sample(2), *sample(3)]))
    assert values(tmp_path) == [0, 10, 20, 30]
    for tail, said in (
        (b"not a tar " * 100, r"after sample 001: cannot be read to its end: byte \d+,?\d* begins no member"),
        (tar_of(sample(2))[:700], r"after sample 001: cannot be read to its end"),
    ):
        with pytest.raises(UserError, match=said):
            run(tmp_path, tar_of(TWO) + tail)
        report = run(tmp_path, tar_of(TWO) + tail, max_bad_records=1)
        assert (report.index.images, len(report.skipped)) == (2, 1)


def test_a_tar_that_is_cut_off_between_members_is_told(tmp_path: Path) -> None:
    """Its end mark is all that is missing of what is there."""
    content = tar_of([*TWO, *sample(2)])
    content = content[: content.index(b"002.png")]
    with pytest.raises(UserError, match="after sample 001: the tar has no end mark: it is cut off"):
        run(tmp_path, content)
    report = run(tmp_path, content, max_bad_records=2)
    assert (report.index.images, len(report.skipped)) == (2, 1)


def test_a_damaged_header_in_the_middle_is_told(tmp_path: Path) -> None:
    """The library takes it for the end."""
    content = bytearray(tar_of([*TWO, *sample(2)]))
    place = content.index(b"001.png")
    content[place + 150] ^= 1
    with pytest.raises(UserError, match=rf"after sample 000: cannot be .*byte {place:,} begins no member"):
        run(tmp_path, bytes(content))


def test_a_file_that_cannot_be_read_at_all_is_not_one_bad_record(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"noise" * 1000)
    options = ImageBuildOptions((str(tmp_path / "x.parquet"),), str(tmp_path / "rows"), 4, max_bad_records=9)
    with pytest.raises(UserError, match="that is not one bad record: take the file out of --input"):
        build_images(options)
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1
    nested = (long_name.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 1000
    for number, content in enumerate(
        (b"noise" * 1000, b"", gzip.compress(tar_of(TWO))[:20], tar_of(TWO)[:600], nested)
    ):
        with pytest.raises(UserError, match="that is not one bad record: take the file out of --input"):
            run(tmp_path, content, f"{number}.tar", max_bad_records=9)


def test_more_left_out_of_tars_than_read_is_refused_unless_told(tmp_path: Path) -> None:
    content = tar_of([*TWO, ("002.heic", bytes(5000)), ("003.heic", bytes(5000))])
    with pytest.raises(UserError, match=r"10 kB are left out, more than the \d+ B that are read: 2 \.heic"):
        run(tmp_path, content)
    assert not list(tmp_path.glob("out*/index.json"))
    report = run(tmp_path, content, allow_left_out=True)
    assert (report.index.images, report.left_out.kinds) == (2, {".heic": (2, 10_000)})
