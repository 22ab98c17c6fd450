"""The schedule of a run whose sequences grow."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from pretrain.config.sections.descent import ScheduleConfig
from pretrain.config.sections.section import Count, Section


class StageConfig(Section):
    """Steps at the beginning of a run whose batches are smaller than `batch` says."""

    until: Count
    """The last step of the stage."""
    sequence_length: Count
    """Tokens per sample."""
    global_size: Count | None = None
    """Samples per step; null: `batch.global_size`."""
    micro_size: Count | None = None
    """Samples per forward pass; null: `batch.micro_size`."""


def _as_stages(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of {until, sequence_length, ...}")
    return tuple(value)


Stages = Annotated[tuple[StageConfig, ...], BeforeValidator(_as_stages)]


class CorpusScheduleConfig(ScheduleConfig):
    """Learning rate over steps: linear warm-up, then a decay to `min_lr`."""

    sequence_length: Stages | None = None
    """Shorter sequences at first: a list of {until, sequence_length, global_size, micro_size}, each up to the
    step `until`; after the last one `batch` holds. Each stage has an order of samples of its own."""
