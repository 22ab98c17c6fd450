"""From images to features: Inception from a local TorchScript file, or a classifier that was trained here.

Only Inception's features give a FID; those of a classifier give `fd_NAME`, after the name of its run. Nothing
is downloaded.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from data_tools.bounded import open_regular
from data_tools.images.reader import ImageReader
from evals.frechet import Features
from evals.images.options import ImageEvalOptions
from evals.kid import unit_scale
from pretrain.cnn.score import SavedClassifier, load_classifier
from pretrain.errors import IntegrityError, UserError

INCEPTION_FEATURES = 2048
INCEPTION_SIDE = 299


class Extractor(Protocol):
    """Turns images into the features that are compared."""

    name: str
    """Ends the names of its metrics."""
    frechet_name: str
    """`fid` for Inception, `fd_NAME` for anything else."""
    feature_size: int

    def require_fits(self, reader: ImageReader, key: str) -> None:
        """Raise UserError for shards whose images it cannot process unchanged; `key` is for the message."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        """float32 [B, F], on the CPU, of uint8 images [B, C, H, W]."""

    def classes(self, features_NF: Tensor) -> Tensor | None:
        """The most likely class for each row of features, int64 [N]; None if it has no classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes; empty if it has none."""

    def kernel_scale(self, real_NF: Features) -> float:
        """The factor by which features are multiplied for KID's kernel."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the features."""


class CnnExtractor:
    """The second-to-last layer of a classifier."""

    def __init__(self, saved: SavedClassifier, run: str) -> None:
        self._saved = saved
        self.name = re.sub(r"[^A-Za-z0-9]+", "_", run).strip("_") or "cnn"
        self.frechet_name = f"fd_{self.name}"
        self.feature_size = saved.classifier.feature_size

    def require_fits(self, reader: ImageReader, key: str) -> None:
        """Its images must have the size and channels of the classifier's; their classes do not matter."""
        self._saved.require_pixels(reader, key)

    def features(self, images_BCHW: Tensor) -> Tensor:
        return self._saved.classifier.features(images_BCHW)

    def classes(self, features_NF: Tensor) -> Tensor:
        head = self._saved.classifier.model.head
        with torch.no_grad():
            return functional.linear(features_NF, head.weight.cpu(), head.bias.cpu()).argmax(1)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._saved.classes

    def kernel_scale(self, real_NF: Features) -> float:
        """The factor to the scale that the kernel was designed for: a classifier's features can have any."""
        return unit_scale(real_NF)

    def describe(self) -> dict[str, Any]:
        """Its checkpoint, precision and device."""
        return {
            "kind": "cnn",
            "checkpoint": str(self._saved.checkpoint.path),
            "fingerprint": self._saved.checkpoint.fingerprint,
            "features": self.feature_size,
            "precision": self._saved.config.precision,
            "device": self._saved.classifier.device.type,
        }


class InceptionExtractor:
    """Inception v3 as a TorchScript file: uint8 RGB in, 2,048 features out."""

    name = "inception"
    frechet_name = "fid"
    feature_size = INCEPTION_FEATURES

    def __init__(self, path: str, expected: str | None, resize: str, device: torch.device) -> None:
        self._sha256 = _checksum(path, expected)
        self._resize, self._device = resize, device
        try:
            self._module: Any = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
            arguments = {argument.name for argument in self._module.forward.schema.arguments}
            # The file that StyleGAN's authors published returns class logits unless it is asked for features.
            self._options = {"return_features": True} if "return_features" in arguments else {}
            found = self.features(torch.zeros(1, 3, INCEPTION_SIDE, INCEPTION_SIDE, dtype=torch.uint8))
        except Exception as error:  # torch raises many types for damaged files, and the file is a program
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(
                f"--inception-weights {path}: does not work as a TorchScript file that takes uint8 images "
                f"[B, 3, H, W]: {reason}"
            ) from None
        if found.shape != (1, INCEPTION_FEATURES):
            raise UserError(
                f"--inception-weights {path}: gives {list(found.shape)[1:]} numbers for an image, Inception "
                f"gives [{INCEPTION_FEATURES}]; a FID of anything else would be none"
            )

    def require_fits(self, reader: ImageReader, key: str) -> None:
        """Accepts images of any size, in colour or grey."""

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        images = images_BCHW.to(self._device)
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self._resize == "antialias" and images.shape[-1] != INCEPTION_SIDE:
            sides = (INCEPTION_SIDE, INCEPTION_SIDE)
            resized = functional.interpolate(
                images.float(), sides, mode="bicubic", antialias=True, align_corners=False
            )
            images = resized.round().clamp(0, 255).to(torch.uint8)
        features: Tensor = self._module(images, **self._options)
        return features.float().cpu()

    def classes(self, features_NF: Tensor) -> None:
        """None: its classes are those of ImageNet."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def kernel_scale(self, real_NF: Features) -> float:
        """1: the kernel was designed for these features, and published values use them unscaled."""
        return 1.0

    def describe(self) -> dict[str, Any]:
        """The file's SHA-256, how images were resized, and the device."""
        return {
            "kind": "inception",
            "sha256": self._sha256,
            "features": self.feature_size,
            "resize": {
                "file": "by the file",
                "antialias": "bicubic with antialiasing to 299 x 299, then as uint8",
            }[self._resize],
            "device": self._device.type,
        }


def open_extractor(options: ImageEvalOptions, device: torch.device, say: Callable[[str], None]) -> Extractor:
    """The extractor that the options name.

    Raises:
        UserError: none or two are named, it cannot be opened, or an option has no effect on it.
        IntegrityError: Inception's file is not the expected one.
    """
    options.check_extractor()
    if options.inception_weights is not None:
        resize = options.resize or "file"
        return InceptionExtractor(options.inception_weights, options.inception_sha256, resize, device)
    assert options.extractor is not None, "one of them is"
    try:
        saved = load_classifier(options.extractor, device, say)
    except UserError as error:
        raise type(error)(str(error), "--extractor") from None
    return CnnExtractor(saved, saved.checkpoint.path.resolve().parent.parent.name)


def _checksum(path: str, expected: str | None) -> str:
    try:
        with open_regular(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"--inception-weights {path}: cannot be read: {error.strerror}") from None
    if expected is not None and found != expected.lower():
        raise IntegrityError(
            f"--inception-weights {path}: its SHA-256 is {found}, not the expected {expected}; get the right "
            f"file, or the right number for {Path(path).name}"
        )
    return found
