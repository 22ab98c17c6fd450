"""`pretrain generate` for a GAN: a grid of images as one PNG, or a folder of PNGs."""

from pathlib import Path

import torch
from PIL import Image

from data_tools.counts import counted
from data_tools.progress import Progress
from pretrain.config.generate_request import SEED, GenerateRequest
from pretrain.errors import UserError
from pretrain.gan.restore import SavedGenerator, load_generator
from pretrain.gan.samples import BATCH, GAP, grid, save_png
from pretrain.run.exit import print_error

IMAGES = 64
MOST_IN_A_GRID = 10_000
LARGEST_SIDE = 65_500
"""Pixels; more than this no PNG viewer opens."""


def generate_command(request: GenerateRequest) -> None:
    """Draw images and write them: a `.png` for a grid, anything else is a folder.

    Raises:
        UserError, IntegrityError: there is no good checkpoint, or options do not fit it or one another.
    """
    target, count, label = Path(request.output or "samples.png"), request.count or IMAGES, request.label
    one = target.suffix.lower() == ".png"
    if not one and target.suffix.lower() in Image.registered_extensions() and not target.is_dir():
        right = target.with_suffix(".png")
        raise UserError(f"--output {target}: a grid is written as PNG; choose {right}, or a folder")
    if one and count > MOST_IN_A_GRID:
        raise UserError(f"--count {count}: a grid has at most {MOST_IN_A_GRID}; give a folder as --output")
    if not one and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output {target}: is not an empty folder; choose another, or a .png for a grid")
    seed, cpu = SEED if request.seed is None else request.seed, torch.device("cpu")
    saved = load_generator(request.checkpoint, cpu, seed, print_error, average=not request.raw)
    _check_label(saved, label)
    if one:
        side = saved.image_size + GAP
        if side * count**0.5 > LARGEST_SIDE:
            raise UserError(f"--count {count}: the grid would be too large; give a folder as --output")
        save_png(target, grid(saved.generate(range(count), label)))
    else:
        _write_folder(saved, target, count, label)
    print(f"{target}: {counted(count, 'image')} of {saved.image_size} x {saved.image_size}")


def _check_label(saved: SavedGenerator, label: int | None) -> None:
    classes = saved.classes
    if label is None or 0 <= label < classes:
        return
    if not classes:
        raise UserError(f"--class {label}: the model is not conditional; remove it")
    raise UserError(f"--class {label}: the model has classes 0 to {classes - 1}")


def _write_folder(saved: SavedGenerator, folder: Path, count: int, label: int | None) -> None:
    """Write `000000.png` ...; with classes, in a folder for each class, as `data images` reads them."""
    with Progress("generating", count) as progress:
        for first in range(0, count, BATCH):
            numbers = range(first, min(count, first + BATCH))
            for number, image in zip(numbers, saved.generate(numbers, label), strict=True):
                classes = saved.classes
                place = folder / str(number % classes if label is None else label) if classes else folder
                save_png(place / f"{number:06d}.png", grid(image[None]))
            progress.advance(len(numbers))
