"""Whatever a user may hand in as an image: used rightly, or named in one message, never wrong in silence."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_shards import draw
from PIL import Image

from data_tools.errors import IntegrityError, UserError
from data_tools.images.builder import ImageBuildOptions, ImageReport, build_images
from data_tools.images.pixels import BadImage, read_square


def run(*inputs: Path | str, output: Path, **options: Any) -> ImageReport:
    return build_images(
        ImageBuildOptions(tuple(map(str, inputs)), str(output), **{"size": 4, "workers": 1, **options})
    )


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def seen(data: bytes, channels: int = 3) -> list[int]:
    """The first pixel of what comes out."""
    picture = np.asarray(read_square(data, 4, channels).picture)
    assert picture.shape == ((4, 4, 3) if channels == 3 else (4, 4))
    assert picture.dtype == np.uint8
    return picture.reshape(16, -1)[0].tolist()


def full(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (4, 4), value)


def test_every_mode_becomes_the_colours_that_it_means() -> None:
    palette = full("RGB", (10, 200, 30)).quantize(4)
    cases: dict[str, tuple[bytes, list[int]]] = {
        "grey": (encoded(full("L", 77)), [77, 77, 77]),
        "black and white": (encoded(full("1", 1)), [255, 255, 255]),
        "palette": (encoded(palette), [10, 200, 30]),
        "opaque": (encoded(full("RGBA", (10, 20, 30, 255))), [10, 20, 30]),
        "transparent shows white": (encoded(full("RGBA", (10, 20, 30, 0))), [255, 255, 255]),
        "half transparent": (encoded(full("LA", (0, 128))), [127, 127, 127]),
        "palette with transparency": (encoded(palette, transparency=0), [255, 255, 255]),
        "CMYK": (encoded(full("CMYK", (255, 0, 0, 0)), "TIFF"), [0, 255, 255]),
        "lossless WebP": (encoded(full("RGB", (1, 2, 3)), "WEBP", lossless=True), [1, 2, 3]),
    }
    for name, (data, expected) in cases.items():
        assert seen(data) == pytest.approx(expected, abs=1), name


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_cut_off(file_format: str) -> None:
    for value, expected in ((0, 0), (257, 1), (1000, 4), (32_896, 128), (65_535, 255)):
        image = Image.fromarray(np.full((4, 4), value, np.uint16))
        assert seen(encoded(image, file_format), channels=1) == [expected]


def test_numbers_without_a_range_are_refused() -> None:
    for mode, said in (("F", "floating-point"), ("I", "32-bit numbers")):
        with pytest.raises(BadImage, match=said):
            seen(encoded(full(mode, 3), "TIFF"))


def test_the_cameras_orientation_is_applied() -> None:
    values = np.zeros((4, 4, 3), np.uint8)
    values[0] = 250
    turned = Image.fromarray(values)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    assert seen(encoded(turned, exif=exif)) == [0, 0, 0]


def bomb(side: int) -> bytes:
    """A PNG whose header says `side` x `side` pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PHOTO = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)))
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"not a readable image: of no format that is read \(PNG, .*\), or damaged at"),
    "text": (b"hello", r"not a readable image: of no format that is read \(PNG, .*\), or damaged at"),
    "cut off": (PHOTO[: len(PHOTO) // 2], "not a readable image: .*truncated"),
    "header alone": (PHOTO[:30], "not a readable image"),
    "bomb": (bomb(10_000), "a decompression bomb: 10000 x 10000 pixels, more than 89,478,485"),
    "huge bomb": (bomb(60_000), "a decompression bomb: more than 89,478,485 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_stop_the_build_or_are_listed(tmp_path: Path, name: str) -> None:
    data, said = BAD[name]
    folder = draw(tmp_path / "in", 6)
    (folder / "0" / "a-bad.png").write_bytes(data)
    with pytest.raises(UserError, match=rf"in/0/a-bad\.png: {said}.*\(--bad-records skip:N skips up to N\)"):
        run(folder, output=tmp_path / "stopped")
    report = run(folder, output=tmp_path / "out", max_bad_records=1)
    assert (report.index.images, len(report.skipped)) == (6, 1)
    listed = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
    assert listed["file"].endswith("in/0/a-bad.png")


def test_the_budget_holds(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", 6)
    for number in range(3):
        (folder / "1" / f"bad{number}.png").write_bytes(b"no")
    with pytest.raises(UserError, match="more than the 2 bad records of --bad-records"):
        run(folder, output=tmp_path / "out", max_bad_records=2)


def test_a_damaged_tar_is_told(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", 12)
    run(folder, output=tmp_path / "good")
    (shard,) = (tmp_path / "good").glob("*.tar")
    content = shard.read_bytes()
    for keep in (5_000, 6_144):  # within a member, and between two
        (tmp_path / "cut.tar").write_bytes(content[:keep])
        with pytest.raises(
            UserError, match=r"cut\.tar, after sample \S+: (cannot be read|the tar has no end)"
        ):
            run(tmp_path / "cut.tar", output=tmp_path / f"out-{keep}")
    (tmp_path / "noise.tar").write_bytes(b"noise" * 1000)
    with pytest.raises(UserError, match=r"noise\.tar: cannot be read to its end"):
        run(tmp_path / "noise.tar", output=tmp_path / "out-noise")


def nothing(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")


def two_levels(folder: Path) -> None:
    draw(folder, 4)
    Image.new("RGB", (8, 8)).save(folder / "top.png")


def only_bad(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no")


FOLDERS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "empty": (lambda folder: None, {}, "nothing there matches"),
    "no images": (nothing, {}, r"no file ends in \.png, \.jpg"),
    "two levels": (two_levels, {}, r"top\.png lies directly in it .* or give --labels none"),
    "all bad": (only_bad, {"max_bad_records": 5}, "all of its 1 record is bad, the first: .*a.png"),
    "size": (lambda folder: draw(folder, 2), {"size": 0}, "--size 0: pixels a side, from 1 to 4096"),
    "channels": (lambda folder: draw(folder, 2), {"channels": 2}, "--channels 2: 3 for colour or 1 for grey"),
    "key": (lambda folder: draw(folder, 2), {"image_key": "x"}, "--image-key x: has an effect on .parquet"),
    "classes": (
        lambda folder: draw(folder, 2),
        {"classes": "x", "labels": False},
        "--classes x: has no effect",
    ),
    "remote": (lambda folder: draw(folder, 2), {"output": "s3://b/x"}, "must be a local directory"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_bad_folders_and_options_are_refused(tmp_path: Path, name: str) -> None:
    make, options, said = FOLDERS[name]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    with pytest.raises(UserError, match=said):
        run(tmp_path / "in", **{"output": tmp_path / "out", **options})


def test_one_image_is_a_data_set(tmp_path: Path) -> None:
    assert run(draw(tmp_path / "in", 1, classes=0), output=tmp_path / "out").index.images == 1


def test_an_unknown_class_is_told(tmp_path: Path) -> None:
    run(draw(tmp_path / "two", 4), output=tmp_path / "a")
    three = draw(tmp_path / "three", 6, classes=3)
    with pytest.raises(UserError, match=r"its class '2' is not one of the 2 classes of --classes"):
        run(three, output=tmp_path / "b", classes=str(tmp_path / "a"))
    flat = draw(tmp_path / "flat", 2, classes=0)
    with pytest.raises(UserError, match=r"has no label, and others have; --labels none"):
        run(three, flat, output=tmp_path / "c")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(PHOTO)), st.integers(0, len(PHOTO)))
def test_any_bytes_are_an_image_or_a_bad_one(noise: bytes, start: int, length: int) -> None:
    for data in (noise, PHOTO[:start] + noise + PHOTO[start + length :]):
        try:
            picture = read_square(data, 4, 3).picture
        except BadImage as error:
            assert str(error)
        else:
            assert (picture.size, picture.mode) == ((4, 4), "RGB")


@pytest.mark.slow
def test_the_command_says_one_line_and_the_right_code(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", 4)
    (folder / "0" / "bad.png").write_bytes(b"no")
    command = [sys.executable, "-m", "pretrain", "data"]
    build = [*command, "images", "--input", str(folder), "--size", "4", "--output", str(tmp_path / "out")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "pretrain: error: " in done.stderr and "bad.png: not a readable image" in done.stderr
    done = subprocess.run([*build, "--bad-records", "skip:1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 images of 4 x 4, 2 classes" in done.stdout and "1 bad record skipped" in done.stdout
    for name in ("inspect", "verify"):
        done = subprocess.run(
            [*command, name, str(tmp_path / "out")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (tmp_path / "out" / "000000-000.tar").unlink()
    done = subprocess.run(
        [*command, "verify", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == IntegrityError.exit_code
    assert "000000-000.tar: missing" in done.stderr
