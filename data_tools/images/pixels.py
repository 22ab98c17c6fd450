"""Bytes of an image file to a square image, and a square image to the bytes that a shard holds.

Whatever could go wrong silently is either done right or refused: 16-bit grey is scaled (Pillow's own
conversion clips it at 255), transparency is laid over white (its hidden colours are arbitrary), the camera's
orientation is applied, colours are converted to sRGB, and images that are damaged or have an unknown range of
values are bad records.
"""

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from data_tools.images.colour import to_srgb
from data_tools.images.damage import find_damage

MAX_PIXELS = 89_478_485
"""A quarter of a gigabyte at 24 bits: Pillow's own limit. A larger image counts as a decompression bomb."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that are read; others may run programs of their own (EPS) or are not images."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of a TIFF."""
SCALE = {"L;2": 85, "L;4": 17}
"""Pillow scales these pixels to 0 to 255, but not the transparency key."""

Pixels = npt.NDArray[np.uint8]


class BadImage(ValueError):
    """Bytes that are no usable image; the text says why."""


@dataclass(frozen=True)
class Square:
    """An image in mode RGB (3 channels) or L (1), and what was done to it.

    enlarged: it had fewer pixels than requested. unconverted: its colours are not sRGB but are used as if
    they were.
    """

    picture: Image.Image
    enlarged: bool
    unconverted: bool


def read_square(data: bytes, size: int, channels: int) -> Square:
    """The middle square of an image file, resized to `size` pixels a side.

    Resizing is bicubic with antialiasing, over the area of the crop. An animation gives its first frame.

    Raises BadImage: the bytes are not an image, are damaged, or cannot be converted to 8-bit colours.
    """
    try:
        with warnings.catch_warnings():
            # warnings about damaged metadata; a decompression bomb is refused below
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                _refuse_bomb(opened.size)
                _whiten(opened, data)
                opened.load()
                if fault := find_damage(opened, data):
                    raise BadImage(f"not a readable image: {fault}")
                picture, unconverted = _in_colours(opened, channels)
    except (BadImage, MemoryError, ImportError):  # the last two are not about the image
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"a decompression bomb: more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow raises a dozen types for damaged files
        if "MAX_TEXT" in str(error):
            raise BadImage("its metadata unpack to more than 64 MiB") from None
        raise BadImage(f"not a readable image: {_why(error)}") from None
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return Square(picture.crop(box), False, unconverted)
    resized = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return Square(resized, side < size, unconverted)


def _refuse_bomb(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadImage(f"a decompression bomb: {width} x {height} pixels, more than {MAX_PIXELS:,}")


def _whiten(opened: Image.Image, data: bytes) -> None:
    """Make the transparent pixels of a PNG white where Pillow would not; all others are left to Pillow.

    opened: not loaded yet. data: the file that it was opened from.
    """
    key, tiles = opened.info.get("transparency"), getattr(opened, "tile", None)
    if opened.format != "PNG" or key is None or not tiles:
        return
    raw: Any = tiles[0].args
    if raw in SCALE and isinstance(key, int):
        opened.info["transparency"] = key * SCALE[raw]
    elif raw == "I;16B":
        values = np.asarray(opened)
        opened.frombytes(np.where(values == key, 65_535, values).astype("<u2").tobytes())
        del opened.info["transparency"]
    elif raw == "RGB;16B":
        high = np.asarray(opened)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
            again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
            low = np.asarray(again)
        found = (high.astype(np.uint16) << 8 | low) == np.array(key, np.uint16)
        opened.paste((255, 255, 255), (0, 0, *opened.size), Image.fromarray(found.all(-1)))
        del opened.info["transparency"]


def _why(error: Exception) -> str:
    """Pillow's message, without the names and addresses of Python objects."""
    if isinstance(error, UnidentifiedImageError):
        return f"of no format that is read ({', '.join(FORMATS)}), or damaged at its beginning"
    return re.sub(r" ?<[^<>]* object at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__


def _in_colours(opened: Image.Image, channels: int) -> tuple[Image.Image, bool]:
    """A loaded image upright, opaque and in sRGB; and whether its colours could not be converted to it."""
    mode = "RGB" if channels == 3 else "L"
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        image = _from_16_bits(image, opened)
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers, which have no known range")
    image, unconverted = to_srgb(image, opened)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(mode), unconverted


def _from_16_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """0 to 65,535, or the range given by a TIFF's bits per sample, scaled to 0 to 255, rounded to the
    nearest."""
    if not image.mode.startswith("I;16") and opened.format not in ("PNG", "PPM"):
        raise BadImage("its pixels are 32-bit numbers, which have no known range")
    values = np.asarray(image).astype(np.int32)  # up to a third of a gigabyte, so the arithmetic is in place
    bits, white_is_zero = 16, False
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        bits = opened.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]
        white_is_zero = opened.tag_v2.get(PHOTOMETRIC) == 0  # section 3 of TIFF 6.0
    most = (1 << bits) - 1
    if values.min() < 0 or values.max() > most:
        raise BadImage(f"its pixels reach from {values.min()} to {values.max()}, beyond {bits} bits")
    if white_is_zero:
        np.subtract(most, values, out=values)
    values *= 255
    values += most // 2
    values //= most
    return Image.fromarray(values.astype(np.uint8))


def encode(picture: Image.Image, encoding: str) -> bytes:
    """An image as a lossless PNG or WebP file: the same bytes every time with the same Pillow."""
    buffer = io.BytesIO()
    if encoding == "png":
        picture.save(buffer, "PNG", compress_level=6)
    else:
        picture.save(buffer, "WEBP", lossless=True, quality=75, method=4)
    return buffer.getvalue()


def decode(data: bytes, size: int, channels: int) -> Pixels:
    """The pixels of a file from `encode`, uint8 [C, H, W].

    Raises BadImage if it is damaged or of another size or kind.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as picture:
            if picture.size != (size, size):
                raise BadImage(f"is {picture.size[0]} x {picture.size[1]} pixels, not {size} x {size}")
            # WebP has no grey mode; three equal channels restore it exactly.
            if picture.mode != ("RGB" if channels == 3 or picture.format == "WEBP" else "L"):
                raise BadImage(f"is of mode {picture.mode}, which does not have {channels} channels")
            values: npt.NDArray[Any] = np.asarray(picture if channels == 3 else picture.convert("L"))
    except BadImage:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise BadImage(f"not a readable image: {_why(error)}") from None
    return np.ascontiguousarray(values.transpose(2, 0, 1) if channels == 3 else values[None])
