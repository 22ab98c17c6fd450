"""The distance of a generator's images from real ones, in the features of an extractor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data_tools.counts import are, counted
from data_tools.images.reader import ImageReader
from data_tools.sources import absolute
from evals.frechet import frechet_distance
from evals.images.extractors import Extractor
from evals.images.features import Matrix, features_of, real_features
from evals.images.options import MAX_SAMPLES
from evals.kid import kernel_distance
from evals.precision_recall import NEAR, SMALLEST_SET, memorised, precision_recall
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError

ENOUGH_SAMPLES = 2048


class ImageGenerator(Protocol):
    """A source of generated images."""

    @property
    def channels(self) -> int: ...

    @property
    def image_size(self) -> int:
        """Pixels a side."""

    def generate(self, ids: Sequence[int]) -> Tensor:
        """uint8 [B, C, H, W] on the CPU: a pure function of the generator's seed and each id."""


@dataclass(frozen=True)
class ImageComparison:
    """What is compared with what."""

    generator: ImageGenerator
    extractor: Extractor
    reference: tuple[ImageReader, ...]
    """Directories of real images to compare with."""
    training: tuple[ImageReader, ...]
    """Directories that the generator was trained on."""
    samples: int | None
    """Images to generate; None: as many as there are real ones, up to MAX_SAMPLES."""
    cache: Path | None
    """Folder in which features of real images are kept; None: they are not."""


def compare(
    asked: ImageComparison, world: DistContext, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and their spec; the same on every rank and for any number of ranks.

    say: called with warnings, on rank 0.

    Raises UserError: images of another size or channels, or too few of them.
    """
    _require_fits(asked)
    extractor, cache = asked.extractor, asked.cache
    real = real_features(asked.reference, MAX_SAMPLES, extractor, world, cache)
    samples = asked.samples or len(real)
    for what, count in (("the reference's images", len(real)), ("--samples", samples)):
        if count < SMALLEST_SET:
            raise UserError(f"{what}: {count} are too few to compare; give at least {SMALLEST_SET}")
    training = real
    if [r.fingerprint for r in asked.training] != [r.fingerprint for r in asked.reference]:
        training = real_features(asked.training, MAX_SAMPLES, extractor, world, cache)
    made = features_of(asked.generator.generate, samples, extractor, world, "generating images")
    if not np.isfinite(made).all():
        raise UserError(f"{extractor.name}: gives features that are not finite for generated images")
    scale = extractor.kernel_scale(real)
    metrics = broadcast_from_rank0(world, lambda: _metrics(extractor, real, training, made, scale))
    warnings = _warnings(extractor, samples, len(real), asked)
    if world.is_first:
        for warning in warnings:
            say(f"warning: {warning}")
    return metrics, {
        "extractor": extractor.describe(),
        "kid_scale": scale,
        "samples": samples,
        "reference_images": len(real),
        "reference": _described(asked.reference),
        "training": _described(asked.training),
        "classes": _histograms(extractor, real, made),
        "warnings": warnings,
    }


def definitions(extractor: Extractor) -> dict[str, str]:
    """The definition of each metric, by name."""
    name = extractor.name
    return {
        extractor.frechet_name: "squared Frechet distance of Gaussians with the moments of both sets' "
        "features, float64, by eigh; no standard error is given: its bias matters more",
        f"kid_{name}": "unbiased squared MMD under (x.y / F + 1)^3 over all pairs, of features times "
        "kid_scale",
        f"kid_{name}_error": "its standard error, by the jackknife over the images of both sets",
        f"precision_{name}": "share of generated images within the 3-nearest-neighbour ball of a real one",
        f"recall_{name}": "share of real images within the 3-nearest-neighbour ball of a generated one",
        f"density_{name}": "real 5-nearest-neighbour balls that a generated image lies in, divided by 5",
        f"coverage_{name}": "share of real 5-nearest-neighbour balls with a generated image in them",
        f"memorised_{name}": "share of generated images nearer to a training image than 99 % of training "
        f"images are to another one; about {NEAR} without memorisation",
    }


def _metrics(
    extractor: Extractor, real: Matrix, training: Matrix, made: Matrix, scale: float
) -> dict[str, float]:
    name = extractor.name
    kernel, kernel_error = kernel_distance(made * scale, real * scale)
    near = {f"{key}_{name}": value for key, value in precision_recall(real, made).items()}
    return {
        extractor.frechet_name: frechet_distance(made, real),
        f"kid_{name}": kernel,
        f"kid_{name}_error": kernel_error,
        **near,
        f"memorised_{name}": memorised(training, made),
    }


def _require_fits(asked: ImageComparison) -> None:
    made = asked.generator
    for key, readers in (("--data", asked.reference), ("data.train", asked.training)):
        for reader in readers:
            found = (reader.index.image_size, reader.index.channels)
            if found != (made.image_size, made.channels):
                raise UserError(
                    f"{reader.path}: images of {found[0]} x {found[0]} in {found[1]} channels; the "
                    f"generator makes {made.image_size} x {made.image_size} in {made.channels}",
                    key,
                )
            asked.extractor.require_fits(reader, key)


def _warnings(extractor: Extractor, samples: int, real: int, asked: ImageComparison) -> list[str]:
    found = []
    for what, count in (("generated", samples), ("real", real)):
        if count < ENOUGH_SAMPLES:
            found.append(
                f"{counted(count, f'{what} image')} {are(count)} fewer than {ENOUGH_SAMPLES:,}: "
                "the Frechet distance comes out "
                "too large, so compare it only at equal numbers"
            )
        if count < extractor.feature_size:
            found.append(
                f"{counted(count, f'{what} image')} {are(count)} fewer than the "
                f"{extractor.feature_size:,} features: the "
                "covariance is singular"
            )
    if [r.fingerprint for r in asked.training] == [r.fingerprint for r in asked.reference]:
        found.append("the real images are those of training; for held-out ones give --data DIR")
    return found


def _described(readers: Sequence[ImageReader]) -> list[dict[str, Any]]:
    return [
        {"path": absolute(reader.path), "fingerprint": reader.fingerprint, "images": len(reader)}
        for reader in readers
    ]


def _histograms(extractor: Extractor, real: Matrix, made: Matrix) -> dict[str, dict[str, int]] | None:
    """How many images of both sets the extractor assigns to each class; None if it has no classes."""
    names = extractor.class_names
    counts = {}
    for what, features in (("generated", made), ("reference", real)):
        classes = extractor.classes(torch.from_numpy(features.copy()))
        if classes is None:
            return None
        found = torch.bincount(classes, minlength=len(names)).tolist()
        counts[what] = dict(zip(names, found, strict=True))
    return counts
