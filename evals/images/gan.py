"""The distance of a GAN's images to real ones, in the features of Inception or of a classifier."""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from evals.images.extractors import open_extractor
from evals.images.generated import Comparison, compare, definitions
from evals.images.options import DEFAULT_SEED, ImageOptions
from evals.result import Result
from pretrain.data.images import open_images
from pretrain.errors import UserError
from pretrain.folder import RunFolder
from pretrain.gan.restore import load_generator
from pretrain.launch import World

MOST_SHOWN_CLASSES = 20


def evaluate_gan(
    path: Path,
    world: World,
    *,
    stride: int | None,
    data: Sequence[str],
    images: ImageOptions,
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> Result:
    """Compare a GAN's images with real ones, all ranks together; the same result on any number of ranks.

    The real images are those of `--data`, or else those that the GAN was trained on. Raises UserError for
    options without effect and for images or an extractor that do not fit.
    """
    if stride is not None:
        raise UserError(f"--stride {stride} has no effect on a GAN; remove it")
    moved = [override.partition("=")[2] for override in overrides if override.startswith("data.train=")]
    if len(moved) != len(overrides):
        raise UserError(f"{overrides[0]}: has no effect on a GAN's images; data.train=DIR has")
    seed = DEFAULT_SEED if images.seed is None else images.seed
    generator = load_generator(path, world.device, seed)
    extractor = open_extractor(images, world.device, say)
    trained_on = moved or [source.path for source in generator.config.data.train]
    training = tuple(open_images(trained_on, "data.train"))
    reference = tuple(open_images(data, "--data")) if data else training
    run = RunFolder(path.parent.parent)
    comparison = Comparison(
        generator=generator,
        extractor=extractor,
        reference=reference,
        training=training,
        samples=images.samples,
        cache=run.path / "evals" if run.is_run else None,
    )
    metrics, compared = compare(comparison, world, say)
    sets = ", ".join(os.path.abspath(reader.path) for reader in reference)
    spec = {
        "task": extractor.frechet_name,
        "definitions": definitions(extractor),
        "checkpoint_fingerprint": generator.checkpoint.fingerprint,
        "generator": "moving average",
        "seed": seed,
        "data": compared["reference"],
        **compared,
        "processes": world.size,
        "device": world.device.type,
        "versions": {name: version(name) for name in ("pretrain", "torch", "numpy")},
        "summary": f"{compared['samples']:,} generated images (seed {seed}) against "
        f"{compared['reference_images']:,} of {sets}{_class_counts(compared['classes'])}",
    }
    return Result(str(path), generator.checkpoint.step, metrics, spec)


def _class_counts(classes: dict[str, dict[str, int]] | None) -> str:
    """How many images the extractor takes for each class, generated / real, where a line holds them."""
    if classes is None or len(classes["generated"]) > MOST_SHOWN_CLASSES:
        return ""
    real = classes["reference"]
    counts = (f"{name}: {count} / {real[name]}" for name, count in classes["generated"].items())
    return f"\nby class, generated / real: {', '.join(counts)}"
