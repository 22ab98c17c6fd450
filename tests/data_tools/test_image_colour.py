"""What colours a picture file means, by its profile, its transparent colour and its bits: sRGB on white."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from data_tools.images.builder import ImageBuildOptions, build_images
from data_tools.images.pixels import BadImage, read_square

ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Colorants of Adobe RGB (1998) and of sRGB, red to blue, as XYZ under D50."""
WHITE = (0.9642, 1.0, 0.8249)


def profile(
    space: bytes, gamma: float | npt.NDArray[Any], colorants: npt.NDArray[np.float64] | None = None
) -> bytes:
    """An ICC profile of version 2: a curve for grey, or three and where the primaries lie.

    gamma: of the curve, or the curve itself from 0 to 1.
    """

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    if isinstance(gamma, float):
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    else:
        table = np.round(65_535 * gamma).astype(">u2").tobytes()
        curve = b"curv\0\0\0\0" + struct.pack(">I", gamma.size) + table
    tags = {b"wtpt": xyz(WHITE)}
    if colorants is None:
        tags[b"kTRC"] = curve
    else:
        for number, name in enumerate((b"r", b"g", b"b")):
            tags |= {name + b"XYZ": xyz(colorants[:, number]), name + b"TRC": curve}
    place, index, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        index += struct.pack(">4sII", name, place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"\0\0\0\0", 0x02100000, b"mntr", space, b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + xyz(WHITE)[8:]
    return head.ljust(128, b"\0") + index + body


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def full(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (4, 4), value)


def first(data: bytes, channels: int = 3) -> list[int]:
    picture = np.asarray(read_square(data, 4, channels).picture)
    return picture.reshape(16, -1)[0].tolist()


def as_srgb(colour: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """An Adobe RGB colour in sRGB by the definitions of the two, without a colour management system."""
    linear = np.linalg.solve(SRGB, ADOBE @ (np.array(colour) / 255) ** 2.19921875).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_is_converted(file_format: str) -> None:
    adobe = profile(b"RGB ", 2.19921875, ADOBE)
    options: dict[str, Any] = {"icc_profile": adobe}
    options |= {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(file_format, {})
    for colour in ((150, 100, 60), (60, 120, 90), (128, 128, 128)):
        data = encoded(full("RGB", colour), file_format, **options)
        assert first(data) == pytest.approx(as_srgb(colour), abs=2)
        assert not read_square(data, 4, 3).unconverted
    assert abs(as_srgb((150, 100, 60)) - (150, 100, 60)).max() > 10


def test_grey_and_transparent_pictures_have_profiles_too() -> None:
    linear = profile(b"GRAY", 1.0)
    assert first(encoded(full("L", 128), icc_profile=linear)) == pytest.approx([188] * 3, abs=1)
    assert first(encoded(full("L", 128), icc_profile=linear), channels=1) == pytest.approx([188], abs=1)
    sixteen = Image.fromarray(np.full((4, 4), 32_896, np.uint16))
    assert first(encoded(sixteen, icc_profile=linear)) == pytest.approx([188] * 3, abs=1)
    adobe = profile(b"RGB ", 2.19921875, ADOBE)
    grey = encoded(full("L", 60), "JPEG", icc_profile=profile(b"RGB ", 1.0, SRGB))  # means R = G = B
    assert first(grey) == pytest.approx([132] * 3, abs=1)
    assert first(encoded(full("RGBA", (150, 100, 60, 0)), icc_profile=adobe)) == [255, 255, 255]
    half = first(encoded(full("RGBA", (150, 100, 60, 128)), icc_profile=adobe))
    assert half == pytest.approx((as_srgb((150, 100, 60)) * 128 + 255 * 127) / 255, abs=2)
    palette = full("RGB", (150, 100, 60)).quantize(4)
    assert first(encoded(palette, icc_profile=adobe)) == pytest.approx(as_srgb((150, 100, 60)), abs=2)
    keyed = encoded(full("RGB", (150, 100, 60)), icc_profile=adobe, transparency=(150, 100, 60))
    assert first(keyed) == [255, 255, 255]


def test_a_picture_in_srgb_stays_bit_by_bit() -> None:
    """sRGB's usual profile has a table of 1,024 steps, by which single numbers would move by one."""
    steps = np.linspace(0, 1, 1024)
    curve = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    for srgb in (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile(b"RGB ", curve, SRGB),
    ):
        square = read_square(encoded(image, icc_profile=srgb), 64, 3)
        assert (square.picture.tobytes(), square.unconverted) == (image.tobytes(), False)
        grey = read_square(encoded(image.convert("L"), icc_profile=srgb), 64, 1)
        assert (grey.picture.tobytes(), grey.unconverted) == (image.convert("L").tobytes(), False)


def primaries(*values: float) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))
    return info


def gamma(value: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", struct.pack(">I", value))
    return info


def test_colours_that_cannot_be_converted_are_counted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2  # Adobe RGB, without a profile
    images = {
        "damaged.png": encoded(full("RGB", 9), icc_profile=b"no profile"),
        "grey.png": encoded(full("RGB", (1, 2, 3)), icc_profile=profile(b"GRAY", 1.0)),
        "cmyk.tif": encoded(full("CMYK", 9), "TIFF", icc_profile=profile(b"RGB ", 2.2, ADOBE)),
        "linear.png": encoded(full("RGB", 9), pnginfo=gamma(100_000)),
        "wide.png": encoded(
            full("RGB", 9), pnginfo=primaries(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
        ),
        "exif.jpg": encoded(full("RGB", 9), "JPEG", exif=exif),
    }
    for name, data in {
        **images,
        "good.png": encoded(full("RGB", 9), pnginfo=gamma(45_455)),
        "srgb.png": encoded(
            full("RGB", 9), pnginfo=primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
        ),
        "good.jpg": encoded(full("RGB", 9), "JPEG"),
    }.items():
        assert read_square(data, 4, 3).unconverted == (name in images), name
        (tmp_path / name).write_bytes(data)
    report = build_images(ImageBuildOptions((str(tmp_path),), f"{tmp_path}-out", 4, workers=1))
    assert (report.index.images, report.unconverted) == (9, 6)


def png(bits: int, kind: int, rows: npt.NDArray[Any], key: bytes) -> bytes:
    """A PNG of packed rows, and the transparent colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 4, 4, bits, kind, 0, 0, 0)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_the_transparent_colour_of_a_png_is_white_at_any_depth() -> None:
    for value, key, expected in ((0, 0, 255), (40_000, 40_000, 255), (40_001, 40_000, 156), (255, 0, 1)):
        grey = np.full((4, 4), value, ">u2")
        assert first(png(16, 0, grey, struct.pack(">H", key))) == [expected] * 3, value
    stripes = np.tile(np.array([0, 40_000, 0, 0], ">u2"), (4, 1))  # Pillow pastes into half of a row
    row = read_square(png(16, 0, stripes, struct.pack(">H", 0)), 4, 1).picture
    assert np.asarray(row).tolist() == [[255, 156, 255, 255]] * 4
    for value, expected in ((0x1234, 255), (0x1235, 0x12), (0x1134, 0x11)):
        colours = np.full((4, 12), value, ">u2")
        assert first(png(16, 2, colours, struct.pack(">HHH", *[0x1234] * 3))) == [expected] * 3, value
    for bits, value, key, expected in ((2, 1, 1, 255), (2, 1, 2, 85), (4, 3, 3, 255), (4, 3, 5, 51)):
        packed = np.full((4, bits // 2), sum(value << shift for shift in range(0, 8, bits)), np.uint8)
        assert first(png(bits, 0, packed, struct.pack(">H", key))) == [expected] * 3, (bits, key)


def tiff(bits: int, photometric: int, data: bytes) -> bytes:
    """A grey TIFF of 4 x 4 pixels."""
    tags = ((256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 4))
    tags += ((279, len(data)),)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def test_grey_of_a_tiff_is_read_by_its_photometric_and_its_bits() -> None:
    for value, black_is_zero, white_is_zero in ((0, 0, 255), (1000, 4, 251), (65_535, 255, 0)):
        data = np.full(16, value, "<u2").tobytes()
        assert first(tiff(16, 1, data), channels=1) == [black_is_zero]
        assert first(tiff(16, 0, data), channels=1) == [white_is_zero]
    assert first(tiff(8, 0, bytes(16)), channels=1) == [255]
    assert first(tiff(12, 1, b"\xff" * 24), channels=1) == [255]
    assert first(tiff(12, 1, b"\x80\x08\x00" * 8), channels=1) == [128]  # 2,048 of 4,095


def test_much_metadata_does_no_harm(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "y" * 3_000_000, zip=True)
    assert first(encoded(full("RGB", (1, 2, 3)), pnginfo=info)) == [1, 2, 3]
    info.add_text("bomb", "x" * 70_000_000, zip=True)
    with pytest.raises(BadImage, match="its metadata unpack to more than 64 MiB"):
        first(encoded(full("RGB", (1, 2, 3)), pnginfo=info))
