"""The cache for shards that a config names by URL."""

from pathlib import Path

from data_tools.cache import ShardCache
from pretrain.config.sections.source import ShardDataConfig

CACHE_BYTES = 64 << 30
"""Default size if the config does not set one."""


def shard_cache(data: ShardDataConfig) -> ShardCache | None:
    """The cache; None if the config names no folder for it."""
    if data.cache_dir is None:
        return None
    return ShardCache(Path(data.cache_dir), data.cache_bytes or CACHE_BYTES)
