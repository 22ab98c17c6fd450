"""The trainer of image classifiers: what its images are and what is minimised on them.

Images and their shifts are functions of the sample, so a resumed run is identical to an uninterrupted one.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional

from data_tools.counts import counted
from pretrain.cnn.model import Cnn, build_cnn, shifted
from pretrain.cnn.score import Classifier, Scores, score_images
from pretrain.config.sections import CnnConfig
from pretrain.data.dataset import NO_VALIDATION
from pretrain.data.images import ImageData, ImageSource, open_images
from pretrain.data.sources import shard_cache
from pretrain.data.transfer import to_device
from pretrain.errors import UserError
from pretrain.seeds import stream_seed
from pretrain.training.data_parallel import DataParallelTrainer


def open_training_images(config: CnnConfig) -> ImageData:
    """Open the images of `data.train`.

    Raises UserError or IntegrityError, naming the path, and UserError if the images do not have two classes
    to tell apart.
    """
    sources = [(source.path, source.weight) for source in config.data.train]
    batch, cache = config.batch, shard_cache(config.data)
    data = ImageData.open(sources, config.run.seed, batch.global_size, batch.micro_size, shards=cache)
    if data.num_classes < 2:
        what = f"all of class {data.classes[0]!r}" if data.num_classes else "without labels"
        text = f"{sources[0][0]}: its images are {what}; a classifier needs two classes"
        raise UserError(text, "data.train")
    return data


def open_validation_images(config: CnnConfig, data: ImageData) -> tuple[ImageSource, ...]:
    """Open the images of `data.validation`, which must be like those of training; empty if it names none."""
    paths = [source.path for source in config.data.validation or ()]
    cache, like = shard_cache(config.data), data.sources[0].reader
    readers = open_images(paths, "data.validation", cache, like) if paths else []
    return tuple(ImageSource(reader) for reader in readers)


class CnnTrainer(DataParallelTrainer[CnnConfig, tuple[Tensor, Tensor]]):
    """Model, optimizer and images of one run on this rank."""

    UNIT = "images"

    def build_model(self) -> Cnn:
        config, data = self.config, open_training_images(self.config)
        self.data, self.validation = data, open_validation_images(config, data)
        self.fingerprint, scored = data.fingerprint, [source.reader.fingerprint for source in self.validation]
        self.validation_fingerprint = " ".join(scored) or NO_VALIDATION
        model = build_cnn(config.model, data.channels, data.size, data.num_classes, config.run.seed)
        self.classifier = Classifier(model, config.precision, self.world.device)
        return model

    @property
    def units(self) -> int:
        return self.config.batch.global_size

    def batch(self, step: int, micro_batch: int, jumped: int = 0) -> tuple[Tensor, Tensor]:
        """This rank's images, uint8 [B, C, H, W], and labels, int64 [B]."""
        ids = self.micro_batch_samples(step, micro_batch, jumped)
        images, labels = self.data.images(ids)
        assert labels is not None
        if self.config.data.shift:
            keys = [stream_seed(self.config.run.seed, "shift", sample) for sample in ids]
            images = shifted(images, self.config.data.shift, keys)
        return images, labels

    def losses(self, batch: tuple[Tensor, Tensor], micro_batch: int) -> Tensor:
        images, labels = (to_device(each, self.world.device) for each in batch)
        return functional.cross_entropy(self.classifier.logits(images), labels, reduction="sum")

    def validate(self, step: int) -> dict[str, float] | None:
        """Loss and accuracy on the validation images after `step` steps; None if the config has none."""
        if not self.validation:
            return None
        scores = Scores()
        for source in self.validation:
            scores += score_images(self.classifier, source, self.world)
        return {
            "validation_loss": scores.mean_loss,
            "validation_accuracy": scores.accuracy,
            "images": step * self.config.batch.global_size,
        }

    def state(self, step: int) -> dict[str, Any]:
        return {
            **super().state(step),
            "channels": self.data.channels,
            "image_size": self.data.size,
            "classes": list(self.data.classes),
        }

    @property
    def epoch(self) -> str:
        return f"{counted(self.data.samples_per_epoch, 'image')} of {counted(self.data.num_classes, 'class')}"
