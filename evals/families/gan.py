"""The distance of a GAN's images from real ones, in the features of Inception or of a classifier."""

from pathlib import Path

from data_tools.sources import absolute
from evals.images.data import image_data
from evals.images.extractors import open_extractor
from evals.images.generated import ImageComparison, compare, definitions
from evals.images.options import DEFAULT_SEED
from evals.request import EvalRequest, say
from evals.result import Result, spec_of
from pretrain.data.images import open_images
from pretrain.data.sources import shard_cache
from pretrain.distributed.world import DistContext
from pretrain.gan.restore import load_generator
from pretrain.run.folder import RunFolder

MOST_SHOWN_CLASSES = 20
LIBRARIES = ("pretrain", "torch", "numpy")


def evaluate_gan(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Compare a GAN's images with real ones, all ranks together; the same result on any number of ranks.

    The real images are those of `--data`, or else those that the GAN was trained on. Raises UserError for
    overrides without effect and for images or an extractor that do not fit.
    """
    images, data = request.images, request.data
    about = image_data(path, request.overrides, data, "data.train", "a GAN's images; data.train=DIR has")
    seed = DEFAULT_SEED if images.seed is None else images.seed
    generator = load_generator(path, world.device, seed)
    extractor = open_extractor(images, world.device, say)
    cache = shard_cache(about)
    training = tuple(open_images([source.path for source in about.train], "data.train", cache))
    reference = tuple(open_images(data, "--data", cache)) if data else training
    run = RunFolder(path.parent.parent)
    comparison = ImageComparison(
        generator=generator,
        extractor=extractor,
        reference=reference,
        training=training,
        samples=images.samples,
        cache=run.path / "evals" if run.is_run else None,
    )
    metrics, compared = compare(comparison, world, say)
    sets = ", ".join(absolute(reader.path) for reader in reference)
    spec = {
        **spec_of(extractor.frechet_name, definitions(extractor), generator.checkpoint, world, LIBRARIES),
        "generator": "moving average",
        "seed": seed,
        "data": compared["reference"],
        **compared,
        "summary": f"{compared['samples']:,} generated images (seed {seed}) against "
        f"{compared['reference_images']:,} of {sets}{_class_counts(compared['classes'])}",
    }
    return Result(str(path), generator.checkpoint.step, metrics, spec)


def _class_counts(classes: dict[str, dict[str, int]] | None) -> str:
    """How many images the extractor assigns to each class, generated / real, as lines of text."""
    if classes is None or len(classes["generated"]) > MOST_SHOWN_CLASSES:
        return ""
    real = classes["reference"]
    counts = (f"{name}: {count} / {real[name]}" for name, count in classes["generated"].items())
    return f"\nby class, generated / real: {', '.join(counts)}"
