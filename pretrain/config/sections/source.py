"""Shard directories and their shares of the samples."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretrain.config.sections.resume import SAME_SHARDS, may_change, must_agree
from pretrain.config.sections.section import PathText, Section, TokenCount


def _as_sources(value: Any) -> Any:
    """One path, or a list of paths and mappings, as a tuple of mappings."""
    if blend := _blend(value):
        right = ", ".join(f"{{path: {path}, weight: {weight}}}" for weight, path in blend)
        raise ValueError(f"weights belong to their paths: [{right}]")
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return tuple({"path": item} if isinstance(item, str) else item for item in value)
    return value


def _blend(value: Any) -> list[tuple[Any, str]]:
    """Weights and paths of a blend as Megatron writes it, weight before path; empty: it is something else."""
    if isinstance(value, str):
        value = value.split() if "." in value.partition(" ")[0] else []  # "12 monkeys" is a path
    if not isinstance(value, list | tuple):
        return []
    pairs = list(zip(value[::2], value[1::2], strict=False))
    return pairs if all(_is_number(weight) and isinstance(path, str) for weight, path in pairs) else []


def _is_number(word: Any) -> bool:
    try:
        return not isinstance(word, bool) and float(word) > 0
    except (TypeError, ValueError):
        return False


class Source(Section):
    """One shard directory of a blend."""

    path: Annotated[PathText, SAME_SHARDS]
    """Shard directory, made by `pretrain data build` or `pretrain data images`."""
    weight: Annotated[float, must_agree("the mix of sources decides the order of samples")] = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources), Field(min_length=1)]


class ShardDataConfig(Section):
    """Where samples come from. A path may stand for a list of one source of weight 1."""

    train: Sources
    """Shard directory or its URL, or a list of {path, weight}."""
    cache_dir: Annotated[PathText | None, may_change("where shards are kept changes none of them")] = None
    """Local folder for shards that are named by a URL (`s3://...`), shared by the processes of a node."""
    cache_bytes: Annotated[TokenCount | None, may_change("how many shards are kept changes none of them")] = (
        None
    )
    """Bytes of shards kept there, of which those that were opened longest ago make room; null: 64 GiB."""


class ImageDataConfig(ShardDataConfig):
    """Where images come from. A path may stand for a list of one source of weight 1."""
