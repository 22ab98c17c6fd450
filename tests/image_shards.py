"""Small image shards for tests, made by the builder from pictures that numpy draws."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.images.builder import ImageBuildOptions, build_images


def draw(folder: Path, count: int, size: int = 8, classes: int = 2, seed: int = 0) -> Path:
    """PNG files `folder/C/NNN.png`: noise, brighter in the band that its class names; classes 0: flat."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        values = generator.integers(0, 128, (size, size, 3))
        label = number % max(1, classes)
        values[:, label * size // max(1, classes) : (label + 1) * size // max(1, classes)] += 100
        path = folder / (str(label) if classes else "") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return folder


def build_image_shards(
    output: Path, count: int = 20, size: int = 8, channels: int = 1, **drawing: int
) -> str:
    """Shards of `count` pictures; returns their path."""
    pictures = draw(output.with_name(output.name + "-pictures"), count, size, **drawing)
    build_images(ImageBuildOptions((str(pictures),), str(output), size, channels, workers=1))
    return str(output)
