"""Rules of shards that are named by a URL, and of the folder that they are cached in."""

from data_tools.sources import is_remote
from pretrain.config.rule import Rule, Setup, only_beside, unless
from pretrain.config.sections import CnnConfig, GanConfig, TokenConfig

CACHE_OF_NOTHING = "a cache needs remote shards"

ShardsConfig = TokenConfig | CnnConfig | GanConfig


def _remote(setup: Setup[ShardsConfig]) -> list[str]:
    """Sources that are named by a URL."""
    data = setup.config.data
    sources = (*data.train, *(getattr(data, "validation", None) or ()))
    return [source.path for source in sources if is_remote(source.path)]


RULES: tuple[Rule[ShardsConfig], ...] = (
    Rule(
        name="remote shards need a cache",
        key="data.cache_dir",
        applies=lambda s: bool(_remote(s)),
        holds=lambda s: s.config.data.cache_dir is not None,
        message=lambda s: f"is needed for {_remote(s)[0]}: a folder on a local disk, as in /tmp/shards",
    ),
    unless(
        CACHE_OF_NOTHING,
        "data.cache_dir",
        lambda s: not _remote(s),
        "has no effect on shards that are not named by a URL; remove it",
    ),
    only_beside("a bound needs a cache", "data.cache_bytes", "data.cache_dir"),
)
