"""Damaged pictures of every format: a bad record, or the pixels of the whole one; and good ones are good."""

import io
import itertools
import re
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.images.pixels import BadImage, read_square

SIDE = 160
HOLE = 64
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 85}),
    "jpeg optimized": ("JPEG", {"quality": 85, "optimize": True}),
    "jpeg with restarts": ("JPEG", {"quality": 85, "restart_marker_rows": 1}),
    "jpeg progressive": ("JPEG", {"quality": 85, "progressive": True}),
    "webp": ("WEBP", {"quality": 85}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
}
WITHOUT_CHECKS = ("tiff", "tiff lzw", "bmp", "ppm")
"""Here other bytes are another picture, or may be."""


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@cache
def photo() -> Image.Image:
    y, x = np.mgrid[0:SIDE, 0:200]
    waves = (np.sin(x / 17) * np.cos(y / 23), np.sin(x / 11 + y / 31), np.cos(y / 9))
    noise = np.random.default_rng(0).normal(0, 6, (SIDE, 200, 3))
    return Image.fromarray((120 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8))


@cache
def whole(name: str) -> bytes:
    file_format, options = FORMATS[name]
    return encoded(photo(), file_format, **options)


def pixels(data: bytes) -> bytes:
    return read_square(data, SIDE, 3).picture.tobytes()


def accepted(name: str, damaged: bytes) -> bool:
    """Whether a damaged file passes for a picture that it is not."""
    try:
        found = pixels(damaged)
    except BadImage as error:
        assert str(error).startswith("not a readable image: ")
        return False
    return found != pixels(whole(name))


def tenths(data: bytes) -> Iterator[int]:
    for tenth in range(1, 10):
        yield len(data) * tenth // 10


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_off_at_any_tenth_is_bad(name: str) -> None:
    data = whole(name)
    assert [place for place in tenths(data) if accepted(name, data[:place])] == []


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WITHOUT_CHECKS])
def test_a_file_that_ends_in_zeros_is_bad(name: str) -> None:
    """As a copy leaves it that was interrupted, or a disk that was full."""
    data = whole(name)
    told = [place for place in tenths(data) if not accepted(name, data[:place] + bytes(len(data) - place))]
    assert told == list(tenths(data))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WITHOUT_CHECKS])
def test_a_hole_at_any_tenth_is_bad(name: str) -> None:
    data, size = whole(name), 600 if name.startswith("webp") else HOLE
    places = [min(place, len(data) - size - 9) for place in tenths(data)]
    holes = [data[:place] + bytes(size) + data[place + size :] for place in places]
    assert [place for place, hole in zip(places, holes, strict=True) if accepted(name, hole)] == []


@pytest.mark.parametrize("name", [name for name in FORMATS if name.startswith("jpeg")])
def test_a_jpeg_that_ends_early_with_an_end_mark_is_bad(name: str) -> None:
    data = whole(name)
    assert [place for place in tenths(data) if accepted(name, data[:place] + b"\xff\xd9")] == []


def test_a_jpeg_without_one_of_its_scans_is_bad() -> None:
    data = whole("jpeg progressive")
    marker = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
    scans = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(scans) == 10
    for start in scans:
        body = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        found = marker.search(data, body)
        assert found is not None
        with pytest.raises(BadImage, match="scans are missing: "):
            pixels(data[:start] + data[found.start() :])
    with pytest.raises(BadImage, match="scans are missing: 192 of 192 numbers are not whole"):
        pixels(data[: scans[1]] + b"\xff\xd9")  # the means of the blocks are there, but for their last bits


def test_a_run_length_coded_bmp_that_leaves_pixels_out_is_bad() -> None:
    def bmp(runs: bytes) -> bytes:
        head = struct.pack("<IiiHHIIiiII", 40, 6, 2, 1, 8, 1, len(runs), 0, 0, 2, 0)
        palette = b"\0\0\0\0\xff\xff\xff\0"
        return struct.pack("<2sIHHI", b"BM", 62 + len(runs), 0, 0, 62) + head + palette + runs

    line, end, mark = b"\2\1\0\3\1\1\1\0\1\1", b"\0\0", b"\0\1"  # a run of 2, 3 as they are, a run of 1
    good = (line + end + line + end + mark, line + end + line + mark, line + end + line)
    for runs in good:
        assert set(pixels(bmp(runs))) == {255}
    bad = (line + end + b"\2\1" + bytes(20), b"\2\1" + end + line + mark, b"\0\2\6\1" + line + mark)
    for runs in bad:
        with pytest.raises(BadImage, match=r"its runs leave pixels out in line [12] of 2"):
            pixels(bmp(runs))


def test_the_reason_is_told() -> None:
    png = whole("png")
    place = png.index(b"IDAT") + 3_000
    with pytest.raises(BadImage, match="the checksum of its chunk IDAT at byte 33 is wrong"):
        pixels(png[:place] + bytes(len(png) - place - 12) + png[-12:])
    with pytest.raises(BadImage, match="it is truncated: it has no end mark"):
        pixels(png[:-12])
    webp = whole("webp")
    with pytest.raises(BadImage, match="its pixels have a hole: 512 zero bytes in a row"):
        pixels(webp[:3000] + bytes(600) + webp[3600:])
    jpeg = whole("jpeg")
    with pytest.raises(BadImage, match="a scan has a hole: 32 zero bytes in a row"):
        pixels(jpeg[:3000] + bytes(40) + jpeg[3040:])


def test_good_pictures_are_good() -> None:
    line = np.full((200, 300, 3), 255, np.uint8)
    line[100:103] = 0
    images = [Image.new("RGB", (300, 200), colour) for colour in ("black", "white", "green")]
    images += [Image.new("CMYK", (90, 70), (9, 200, 30, 40)), Image.new("L", (500, 400), 7)]
    images += [Image.fromarray(line), photo().crop((0, 0, 7, 3)), Image.new("RGB", (1, 1))]
    for image in images:
        for quality, progressive, optimize, subsampling in itertools.product(
            (1, 75, 100), (False, True), (False, True), (0, 2)
        ):
            options = {"progressive": progressive, "optimize": optimize, "subsampling": subsampling}
            read_square(encoded(image, "JPEG", quality=quality, **options), 4, 3)
        read_square(encoded(image, "TIFF", compression="jpeg"), 4, 3)
        read_square(encoded(image, "TIFF", compression="tiff_deflate"), 4, 3)
        for lossless in (False, True):
            read_square(encoded(image.convert("RGB"), "WEBP", lossless=lossless), 4, 3)
    read_square(encoded(Image.new("RGB", (6000, 6000), "green"), "WEBP", method=0), 4, 3)
    core = struct.pack("<2sIHHIIHHHH", b"BM", 30, 0, 0, 26, 12, 1, 1, 1, 24) + b"\x09\x09\x09\0"
    assert set(pixels(core)) == {9}
    for name in ("png", "jpeg", "jpeg progressive", "gif"):  # something behind the end
        assert pixels(whole(name) + b"and more") == pixels(whole(name))
