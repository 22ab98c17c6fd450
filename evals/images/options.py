"""The image options of `pretrain eval`."""

from collections.abc import Iterable
from dataclasses import dataclass

from pretrain.errors import UserError

MAX_SAMPLES = 50_000
DEFAULT_SEED = 1234


@dataclass(frozen=True)
class ImageEvalOptions:
    """The options that were given; None for those that were not."""

    extractor: str | None = None
    """Run of a classifier whose features are compared."""
    inception_weights: str | None = None
    """TorchScript file of Inception."""
    inception_sha256: str | None = None
    """What that file's SHA-256 must be."""
    resize: str | None = None
    """file: Inception's file resizes images. antialias: they are resized with antialiasing first."""
    samples: int | None = None
    """Images to generate."""
    seed: int | None = None
    """Seed of the generated images."""

    @property
    def given(self) -> dict[str, object]:
        """The options that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def arguments(self) -> list[str]:
        """The options as on the command line, to start ranks with."""
        return [part for name, value in self.given.items() for part in (_option(name), str(value))]

    def refuse(self, names: Iterable[str], why: str) -> None:
        """Raise UserError for the first of these options that was given."""
        for name in names:
            if name in self.given:
                raise UserError(f"{_option(name)} {self.given[name]} has no effect {why}; remove it")

    def check_extractor(self) -> None:
        """Raise UserError unless one extractor is named, with options that have an effect on it."""
        if (self.extractor is None) == (self.inception_weights is None):
            what = "both are given" if self.extractor else "a generator's images are compared by features"
            raise UserError(
                f"{what}: name one extractor, --extractor RUN of a classifier or --inception-weights FILE"
            )
        if self.extractor is not None:
            self.refuse(("inception_sha256", "resize"), "without --inception-weights")


NO_IMAGE_OPTIONS = ImageEvalOptions()


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
