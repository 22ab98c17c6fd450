"""The learning rate as a pure function of the step."""

import math

from pretrain.config import derived
from pretrain.config.sections import CorpusConfig, DescentConfig
from pretrain.config.stages import tokens_until


def learning_rate(config: DescentConfig, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Linear warm-up over `schedule.warmup_steps`, then the decay that `schedule.kind` names, down to
    `schedule.min_lr`, where it stays. With `schedule.decay_tokens` all lengths are in tokens, and a step's
    position is that of its first token.
    """
    schedule, peak = config.schedule, config.optimizer.lr
    if isinstance(config, CorpusConfig) and config.schedule.decay_tokens is not None:
        return _by_tokens(config, step, config.schedule.decay_tokens)
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    low, length = derived.min_lr(config), derived.decay_steps(config)
    if schedule.kind == "wsd":
        begin = config.run.steps - length
    else:
        begin, length = schedule.warmup_steps, length - schedule.warmup_steps
    return low + (peak - low) * _share(config, (step - begin) / length)


def _share(config: DescentConfig, progress: float) -> float:
    """How much of the way from the lowest rate to the peak is left at `progress` (0 to 1) of the decay."""
    progress = min(1.0, max(0.0, progress))
    return (1 + math.cos(math.pi * progress)) / 2 if config.schedule.kind == "cosine" else 1 - progress


def _by_tokens(config: CorpusConfig, step: int, decay: int) -> float:
    peak, low = config.optimizer.lr, derived.min_lr(config)
    warmup, seen = config.schedule.warmup_tokens or 0, tokens_until(config, step)
    if seen < warmup:
        # As with steps, the last token of the step counts, so that the first step does not have a rate of 0.
        return peak * tokens_until(config, step + 1) / max(warmup, tokens_until(config, step + 1))
    return low + (peak - low) * _share(config, (seen - warmup) / (decay - warmup))
