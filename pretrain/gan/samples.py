"""Pictures of what a generator makes: a grid as one PNG, a folder of PNGs, and how much the images differ."""

import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from data_tools.atomic import write_atomically

GAP = 2
"""Pixels between images of a grid."""
BATCH = 64

Pixels = npt.NDArray[np.uint8]


@torch.no_grad()
def sample(generator: nn.Module, latents_NL: Tensor, labels_N: Tensor | None) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] in fp32 on the CPU, by a generator in evaluation mode."""
    was_training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    parts = []
    for start in range(0, len(latents_NL), BATCH):
        rows = slice(start, start + BATCH)
        labels = None if labels_N is None else labels_N[rows].to(device)
        parts.append(generator(latents_NL[rows].to(device), labels).float().cpu())
    generator.train(was_training)
    return torch.cat(parts)


def pixels(images_NCHW: Tensor) -> Tensor:
    """uint8 of images in [-1, 1]; values outside are clipped."""
    return ((images_NCHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(pixels_NCHW: Tensor) -> Pixels:
    """Images side by side, about as many rows as columns: [H, W] for grey, [H, W, 3] for RGB."""
    count, channels, height, width = pixels_NCHW.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), dtype=np.uint8)
    for index, image in enumerate(pixels_NCHW.permute(0, 2, 3, 1).numpy()):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas[:, :, 0] if channels == 1 else canvas


def save_png(path: Path, picture: Pixels) -> None:
    """Write a picture; a reader never sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())


def diversity(images_NCHW: Tensor, labels_N: Tensor | None = None) -> float:
    """Mean distance between two different images, per pixel (root mean square).

    With labels, only pairs of one class count, if there are any: a conditional G that makes one image for
    each class would otherwise look diverse.
    """
    flat = images_NCHW.flatten(1).double()
    distances = torch.pdist(flat) / math.sqrt(flat.shape[1])
    if labels_N is not None:
        first, second = torch.triu_indices(len(flat), len(flat), 1)
        same = labels_N[first] == labels_N[second]
        distances = distances[same] if same.any() else distances
    return float(distances.mean())
