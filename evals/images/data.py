"""The section of a checkpoint's config that names its images, with the overrides of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.sources import is_remote
from pretrain.config.load import read_config
from pretrain.config.sections import ImageDataConfig
from pretrain.errors import UserError
from pretrain.kind import CACHE_KEYS
from pretrain.megatron.restore import RESOLVED_CONFIG


def image_data(
    checkpoint: Path, overrides: Sequence[str], data: Sequence[str], key: str | None, why: str
) -> ImageDataConfig:
    """The section `data` of a checkpoint's config.

    Args:
        checkpoint: its folder; of a GAN or a classifier.
        data: the paths that `--data` names.
        key: the one key that has an effect beside those of `CACHE_KEYS`.
        why: for the message: where other keys have no effect, and what has.

    Raises:
        UserError: an override has no effect.
    """
    given = [override.partition("=")[0] for override in overrides]
    for name, override in zip(given, overrides, strict=True):
        if name not in (key, *CACHE_KEYS):
            raise UserError(f"{override}: has no effect on {why}")
    config: Any = read_config(str(checkpoint / RESOLVED_CONFIG), list(overrides)).config
    found: ImageDataConfig = config.data
    validation = getattr(found, "validation", None)
    sources = (*found.train, *(validation or ()))
    if not any(map(is_remote, (*data, *(source.path for source in sources)))):
        for name in CACHE_KEYS:
            if name in given:
                raise UserError(f"{name}: has no effect on shards that are not named by a URL; remove it")
    return found
