"""Where a config keeps shards that are named by a URL."""

from pathlib import Path

from data_tools.cache import ShardCache
from pretrain.config.sections.source import ShardDataConfig

CACHE_BYTES = 64 << 30
"""If the config does not say."""


def shard_cache(data: ShardDataConfig) -> ShardCache | None:
    """The cache; None where the config names no folder for it."""
    if data.cache_dir is None:
        return None
    return ShardCache(Path(data.cache_dir), data.cache_bytes or CACHE_BYTES)
