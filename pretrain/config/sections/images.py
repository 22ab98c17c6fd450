"""What runs have that train on images."""

from pretrain.config.sections.source import ShardDataConfig


class ImageDataConfig(ShardDataConfig):
    """Where images come from. A path may stand for a list of one source of weight 1."""
