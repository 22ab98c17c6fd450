"""Real images that scikit-learn carries: 1,797 handwritten digits of 8 x 8 pixels and 17 shades of grey.

They are the test part of Alpaydin and Kaynak's "Optical Recognition of Handwritten Digits" (UCI, 1998), in
the order in which 13 writers wrote them. The test images are drawn evenly, so that both parts come from the
same writers.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

HELD_OUT = 500
LEVELS = 16


def write_digits(folder: Path) -> tuple[int, int]:
    """Write `train/D/NNNN.png` and `test/D/NNNN.png` for every digit D; shades 0 to 16 become 0 to 255.

    Returns:
        Number of images in each part.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    shades = np.rint(digits.images * (255 / LEVELS)).astype(np.uint8)
    drawn = sorted(range(len(shades)), key=lambda number: hashlib.sha256(str(number).encode()).digest())
    held_out = set(drawn[:HELD_OUT])
    for number, (label, picture) in enumerate(zip(digits.target.tolist(), shades, strict=True)):
        path = folder / ("test" if number in held_out else "train") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, "PNG")
    return len(shades) - HELD_OUT, HELD_OUT
