"""The training images of a GAN, checked against its config."""

from pretrain.config.rules.gan import SIZES
from pretrain.config.sections import GanConfig
from pretrain.data.images import ImageData
from pretrain.data.sources import shard_cache
from pretrain.errors import UserError
from pretrain.gan.settings import micro_size


def open_images(config: GanConfig, world_size: int) -> ImageData:
    """Open the training images. Raises UserError, naming both, if they do not fit the model."""
    sources = [(source.path, source.weight) for source in config.data.train]
    size = micro_size(config, world_size)
    cache = shard_cache(config.data)
    data = ImageData.open(sources, config.run.seed, config.batch.global_size, size, shards=cache)
    path = config.data.train[0].path
    if data.size != config.model.image_size:
        fits = f"set model.image_size: {data.size}, or " if data.size in SIZES else ""
        raise UserError(
            f"{config.model.image_size}, but the images of {path} are {data.size} x {data.size}; {fits}build "
            f"them with --size {config.model.image_size}",
            "model.image_size",
        )
    if data.samples_per_epoch < 2:
        raise UserError(f"{path} has one image; a GAN learns what two or more have in common", "data.train")
    if config.model.conditional and data.num_classes < 2:
        raise UserError(
            f"{path} has {'one class' if data.num_classes else 'no labels'}; set model.conditional: false, "
            "or build images from a folder per class",
            "model.conditional",
        )
    return data
