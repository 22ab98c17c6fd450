"""Shard directories and their shares of the samples."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretrain.config.sections.section import PathText, Section


def _as_sources(value: Any) -> Any:
    """One path, or a list of paths and mappings, as a tuple of mappings."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        return tuple({"path": item} if isinstance(item, str) else item for item in value)
    return value


class Source(Section):
    """One shard directory of a blend."""

    path: PathText
    """Shard directory, made by `pretrain data build` or `pretrain data images`."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources), Field(min_length=1)]
