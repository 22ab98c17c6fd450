"""Keys of a run's config that have an effect on scoring what it has trained, in groups.

All others belong to the training that is done; which groups a kind has, its record says.
"""

from typing import Any

LAYOUT = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.virtual_pipeline",
    "parallel.context",
    "parallel.sequence",
    "batch.micro_size",
)
"""How an evaluation is spread over ranks."""
SHARDS = (
    "eval.max_windows",
    "data.train",
    "data.validation",
    "data.cache_dir",
    "data.cache_bytes",
)
"""What is read of token shards."""
CACHE = ("data.cache_dir", "data.cache_bytes")
"""Where shards are kept that are named by a URL."""


def scored_shards(config: Any, named: bool) -> list[str]:
    """Directories of a config that an evaluation reads; none where what is scored is named beside it."""
    if named:
        return []
    sources = getattr(config.data, "validation", None) or config.data.train
    return [source.path for source in sources]
