"""What follows from a GAN's config, for `pretrain check`."""

from collections.abc import Iterator

from data_tools.counts import counted
from pretrain.config.load import LoadedConfig
from pretrain.config.sections import GanConfig
from pretrain.data.images import ImageData
from pretrain.gan.data import open_images
from pretrain.gan.networks.build import parameter_counts, shape_of
from pretrain.gan.settings import micro_batches, micro_size


def check_images(loaded: LoadedConfig, config: GanConfig, processes: int | None) -> ImageData:
    """Open the images that a config names.

    Raises ConfigError if they are missing or do not fit, IntegrityError if they are damaged.
    """
    with loaded.at_its_line():
        return open_images(config, processes or 1)


def summary(config: GanConfig, processes: int | None, data: ImageData | None) -> Iterator[tuple[str, str]]:
    """Rows of (what, value). Without data, the images are taken to be RGB without classes."""
    channels, classes = (data.channels, data.num_classes) if data else (3, 0)
    shape = shape_of(config.model, config.loss, channels, classes)
    for_generator, for_discriminator = parameter_counts(shape)
    yield "parameters", f"{for_generator:,} (G) and {for_discriminator:,} (D)"
    rounds, size = config.loss.discriminator_steps, config.batch.global_size
    yield (
        "images",
        f"{rounds * size:,} a step, {rounds * size * config.run.steps:,} in "
        f"{counted(config.run.steps, 'step')}",
    )
    if data:
        epochs = rounds * size * config.run.steps / data.samples_per_epoch
        yield "training images", f"{data.samples_per_epoch:,}; the run sees them {epochs:.2f} times"
    if processes is not None:
        micro = micro_size(config, processes)
        count = micro_batches(config, processes)
        yield "gradient accumulation", f"micro-batches of {micro} an update and process: {count}"


def contents(data: ImageData) -> str:
    """What was opened, in a few words."""
    return counted(data.samples_per_epoch, "image")
