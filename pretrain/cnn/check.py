"""What follows from a classifier's config, for `pretrain check`."""

from collections.abc import Iterator

from data_tools.counts import counted
from pretrain.cnn.model import build_cnn
from pretrain.cnn.trainer import open_training_images, open_validation_images
from pretrain.config import derived
from pretrain.config.load import LoadedConfig
from pretrain.config.sections import CnnConfig
from pretrain.data.images import ImageData


def check_images(loaded: LoadedConfig, config: CnnConfig, processes: int | None) -> ImageData:
    """Open the images that a config names.

    Raises:
        ConfigError: they are missing, or do not fit the model or one another.
        IntegrityError: they are damaged.
    """
    with loaded.at_its_line():
        data = open_training_images(config)
        open_validation_images(config, data)
        build_cnn(config.model, data.channels, data.size, data.num_classes, config.run.seed)
    return data


def summary(config: CnnConfig, processes: int | None, data: ImageData | None) -> Iterator[tuple[str, str]]:
    """Rows of (what, value). Without data, the model's size is not known."""
    size, steps = config.batch.global_size, config.run.steps
    yield "images", f"{size:,} a step, {size * steps:,} in {counted(steps, 'step')}"
    if data:
        model = build_cnn(config.model, data.channels, data.size, data.num_classes, config.run.seed)
        yield "parameters", f"{sum(weight.numel() for weight in model.parameters()):,}"
        epochs = steps * size / data.samples_per_epoch
        yield "training images", f"{data.samples_per_epoch:,}; the run sees them {epochs:.2f} times"
        yield "classes", f"{data.num_classes:,}"
    if processes is not None:
        count = derived.micro_batches(config, processes)
        yield (
            "gradient accumulation",
            f"micro-batches of {config.batch.micro_size} a step and process: {count}",
        )


def contents(data: ImageData) -> str:
    """What was opened, in a few words."""
    return f"{counted(data.samples_per_epoch, 'image')} of {counted(data.num_classes, 'class')}"
