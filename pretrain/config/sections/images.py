"""What runs have that train on images."""

from pretrain.config.sections.section import Section
from pretrain.config.sections.source import Sources


class ImageDataConfig(Section):
    """Where images come from. A path may stand for a list of one source of weight 1."""

    train: Sources
    """Shard directory, or a list of {path, weight}."""
