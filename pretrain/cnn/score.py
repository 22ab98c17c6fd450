"""A trained image classifier: logits and features in the precision of its run, accuracy over ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter, functional

from data_tools.images.reader import ImageReader
from data_tools.typed import names, natural
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.cnn.model import Cnn, build_cnn
from pretrain.config.sections import CnnConfig
from pretrain.data.images import ImageSource
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.megatron.restore import open_saved

SCORING_BATCH = 256
"""Images that are scored together, whatever the number of ranks, so that scores do not depend on it."""


class Classifier:
    """A model on its device; with bf16, under autocast over fp32 weights."""

    def __init__(self, model: Cnn, precision: str, device: torch.device) -> None:
        self.model, self.device = model, device
        self._bf16 = precision == "bf16"

    @property
    def feature_size(self) -> int:
        """Length of an image's feature vector."""
        return self.model.head.in_features

    def parameters(self) -> Iterator[Parameter]:
        return self.model.parameters()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return self.model.named_parameters()

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """float32 [B, K] of uint8 images on the device."""
        with self._precision():
            logits_BK: Tensor = self.model(images_BCHW)
        return logits_BK.float()

    @torch.no_grad()
    def features(self, images_BCHW: Tensor) -> Tensor:
        with self._precision():
            return self.model.features(images_BCHW.to(self.device)).float().cpu()

    @torch.no_grad()
    def classes(self, images_BCHW: Tensor) -> Tensor:
        """The likeliest class of each uint8 image, int64 [B], on the CPU."""
        return self.logits(images_BCHW.to(self.device)).argmax(1).cpu()

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


@dataclass(frozen=True)
class Scores:
    """Losses and correct answers summed over images."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(self.loss + other.loss, self.correct + other.correct, self.images + other.images)

    @property
    def mean_loss(self) -> float:
        """Cross-entropy in nats per image."""
        return self.loss / self.images

    @property
    def accuracy(self) -> float:
        """Share of images whose likeliest class is theirs."""
        return self.correct / self.images


@torch.no_grad()
def score_images(
    classifier: Classifier,
    source: ImageSource,
    world: DistContext,
    advance: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Loss and correct answers on every image of a directory, all ranks together; the same on every rank.

    advance: told the number of images done on this rank, for a progress bar.
    """
    total = torch.zeros(3, dtype=torch.float64)
    for images, labels in source.micro_batches(world.rank, world.size, SCORING_BATCH, len(source)):
        assert labels is not None
        logits_BK = classifier.logits(images.to(world.device)).double().cpu()
        loss = functional.cross_entropy(logits_BK, labels, reduction="sum")
        hits = (logits_BK.argmax(1) == labels).sum()
        total += torch.stack([loss, hits.double(), torch.tensor(float(len(labels)), dtype=torch.float64)])
        advance(len(labels))
    dist.all_reduce(total)
    loss_sum, correct, count = total.tolist()
    return Scores(loss_sum, int(correct), int(count))


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier loaded from a checkpoint, and what it was trained on."""

    checkpoint: Checkpoint
    config: CnnConfig
    classifier: Classifier
    channels: int
    image_size: int
    classes: tuple[str, ...]

    def require_pixels(self, reader: ImageReader, key: str) -> None:
        """Raise UserError for images of another size or other channels; `key` is for the message."""
        found = (reader.index.image_size, reader.index.channels)
        if found != (self.image_size, self.channels):
            raise UserError(
                f"{reader.path}: images of {found[0]} x {found[0]} in {found[1]} channels; the "
                f"classifier {self.checkpoint.path} was trained on {self.image_size} x {self.image_size} in "
                f"{self.channels}",
                key,
            )

    def require_fits(self, reader: ImageReader, key: str) -> None:
        """Raise UserError for images of another size, other channels or other classes."""
        self.require_pixels(reader, key)
        if reader.index.classes != self.classes:
            raise UserError(
                f"{reader.path}: its {len(reader.index.classes)} classes are not the "
                f"{len(self.classes)} of the classifier; build it with --classes of the training shards",
                key,
            )


def load_classifier(
    path: str | Path, device: torch.device, say: Callable[[str], None] = lambda _: None
) -> SavedClassifier:
    """Find, verify and load the classifier of a run.

    Args:
        path: run folder (its newest good checkpoint) or a step folder.
        say: told of newer checkpoints that were passed over, and why.

    Raises:
        UserError, IntegrityError: there is none, it is damaged, or the run trained something else.
    """
    checkpoint, config = open_saved(path, CnnConfig, "a classifier of images", say)
    channels, size = (checkpoint.part(key, natural) for key in ("channels", "image_size"))
    classes = checkpoint.part("classes", names)
    model = build_cnn(config.model, channels, size, len(classes), config.run.seed)
    checkpoint.load(
        ShardedTensor.whole(name, parameter.detach()) for name, parameter in model.named_parameters()
    )
    classifier = Classifier(model.to(device).eval(), config.precision, device)
    return SavedClassifier(checkpoint, config, classifier, channels, size, classes)
