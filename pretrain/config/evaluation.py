"""Keys of a run's config that have an effect on scoring its model, in groups.

All others belong to training, which is over. A kind's record says which groups it has.
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
"""What is read from token shards."""
CACHE = ("data.cache_dir", "data.cache_bytes")
"""Where shards that are named by a URL are cached."""


def scored_shards(config: Any, named: bool) -> list[str]:
    """Directories of a config that an evaluation reads; none if the data to score is given separately."""
    if named:
        return []
    sources = getattr(config.data, "validation", None) or config.data.train
    return [source.path for source in sources]
