"""Transparent colours of a PNG that Pillow does not apply: at 16 bits per channel, and at 2 or 4."""

import io
from typing import Any

import numpy as np
from PIL import Image

SCALE = {"L;2": 85, "L;4": 17}
"""Pillow scales these pixels to 0 to 255, but not the transparency key."""


def whiten(opened: Image.Image, data: bytes) -> None:
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
