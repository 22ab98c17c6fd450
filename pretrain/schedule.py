"""The learning rate as a pure function of the step."""

import math

from pretrain.config.sections import Config

DEFAULT_MIN_LR_SHARE = 0.1
DEFAULT_WSD_DECAY_SHARE = 0.1


def learning_rate(config: Config, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Linear warm-up over `schedule.warmup_steps`, then the decay that `schedule.kind` names, down to
    `schedule.min_lr`, where it stays.
    """
    schedule, peak = config.schedule, config.optimizer.lr
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    low = peak * DEFAULT_MIN_LR_SHARE if schedule.min_lr is None else schedule.min_lr
    if schedule.kind == "wsd":
        length = schedule.decay_steps or max(1, round(config.run.steps * DEFAULT_WSD_DECAY_SHARE))
        start = config.run.steps - length
    else:
        start = schedule.warmup_steps
        length = (schedule.decay_steps or config.run.steps) - start
    progress = min(1.0, max(0.0, (step - start) / length))
    share = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return low + (peak - low) * share
