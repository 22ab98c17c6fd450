"""The schedule of a run whose sequences or batches grow."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from pretrain.config.sections.descent import ScheduleConfig
from pretrain.config.sections.resume import SAMPLES
from pretrain.config.sections.section import Count, MicroSize, Section, TokenCount


class StageConfig(Section):
    """Steps at the beginning of a run whose batches are smaller than `batch` says."""

    RESUME = SAMPLES

    until: Count
    """The last step of the stage; below `run.steps`."""
    sequence_length: Count
    """Tokens per sample."""
    global_size: Count | None = None
    """Samples per step; null: `batch.global_size`."""
    micro_size: MicroSize | None = None
    """Samples per forward pass; null: `batch.micro_size`."""


class BatchStageConfig(Section):
    """Steps at the beginning of a run that see fewer samples than `batch` says."""

    RESUME = SAMPLES

    until: Count
    """The last step of the stage; below `run.steps`."""
    global_size: Count
    """Samples per step."""


def _as_stages(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of {until, sequence_length, ...} or {until, global_size}")
    return tuple(value)


Stages = Annotated[tuple[StageConfig, ...], BeforeValidator(_as_stages)]
BatchStages = Annotated[tuple[BatchStageConfig, ...], BeforeValidator(_as_stages)]


class CorpusScheduleConfig(ScheduleConfig):
    """Learning rate over steps: linear warm-up, then a decay to `min_lr`."""

    sequence_length: Stages | None = None
    """Shorter sequences at first: a list of {until, sequence_length, global_size, micro_size}, each up to the
    step `until`; after the last one `batch` holds. Each stage has an order of samples of its own."""
    batch_size: BatchStages | None = None
    """Smaller batches at first (Brown et al. 2020, appendix B): a list of {until, global_size}, each up to
    the step `until`; after the last one `batch` holds. The order of samples is that of a run
    without it. Not with `sequence_length`."""
    warmup_tokens: TokenCount | None = None
    """Tokens of linear warm-up, instead of `warmup_steps`; with `decay_tokens`."""
    decay_tokens: TokenCount | None = None
    """cosine, linear: tokens seen when `min_lr` is reached, instead of `decay_steps`. The rate then depends
    on tokens and not on steps, which see fewer of them while batches grow."""
