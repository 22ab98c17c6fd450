"""Colours of an image file as sRGB: embedded profiles are converted, and what cannot be converted is
reported."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

# Pillow's own limit refuses valid images that have more than 1 MiB of XMP or profile.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
SAME = 2
"""Of 255: a profile that changes no colour by more than this counts as sRGB, and images are not converted."""
COLOUR_SPACE, ADOBE_RGB = 0xA001, 2
EXIF_FOLDER = 0x8769
GAMMA = 0.45455
PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White, red, green and blue of sRGB as in a PNG's cHRM chunk: x and y."""


def to_srgb(image: Image.Image, source: Image.Image) -> tuple[Image.Image, bool]:
    """The image in sRGB, and whether its colours are in another space that could not be converted.

    image: `source` upright and with 8 bits per channel, in any mode. source: as opened, for its metadata.
    """
    profile = source.info.get("icc_profile")
    if not profile:
        return image, _says_otherwise(source)
    space, transform = _transform(profile)
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    plain = image.convert(image.mode[:-1]) if alpha is not None else image
    if space == "L" and plain.mode == "RGB" and _is_grey(plain):
        plain = plain.convert("L")
    elif space == "RGB" and plain.mode == "L":
        plain = plain.convert("RGB")
    if plain.mode != space:
        return image, True
    if transform is None:
        return image, False
    converted = ImageCms.applyTransform(plain, transform)
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, False


def _is_grey(image: Image.Image) -> bool:
    values = np.asarray(image)
    return bool((values == values[..., :1]).all())


def _says_otherwise(source: Image.Image) -> bool:
    gamma = source.info.get("gamma", GAMMA)
    primaries = source.info.get("chromaticity", PRIMARIES)
    off = max(abs(found - own) for found, own in zip((gamma, *primaries), (GAMMA, *PRIMARIES), strict=True))
    if "srgb" not in source.info and off > 0.01:
        return True
    return source.getexif().get_ifd(EXIF_FOLDER).get(COLOUR_SPACE) == ADOBE_RGB


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The image mode that a profile is for, and the transform to sRGB; None: it already is sRGB.

    The mode is empty for a profile that cannot be used.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = SPACES.get(opened.profile.xcolor_space, "")
        if not mode:
            return "", None
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "", None
    if mode == "CMYK":
        return mode, transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    if mode == "L":
        probe = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    seen = ImageCms.applyTransform(Image.fromarray(probe if mode == "RGB" else probe[..., 0]), transform)
    assert seen is not None
    same = np.abs(np.asarray(seen).astype(int) - probe).max() <= SAME
    return mode, None if same else transform
