"""The learning rate as a pure function of the step."""

import math

from pretrain.config import derived
from pretrain.config.sections import DescentConfig


def learning_rate(config: DescentConfig, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Linear warm-up over `schedule.warmup_steps`, then the decay that `schedule.kind` names, down to
    `schedule.min_lr`, where it stays.
    """
    schedule, peak = config.schedule, config.optimizer.lr
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    low, length = derived.min_lr(config), derived.decay_steps(config)
    if schedule.kind == "wsd":
        start = config.run.steps - length
    else:
        start, length = schedule.warmup_steps, length - schedule.warmup_steps
    progress = min(1.0, max(0.0, (step - start) / length))
    share = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return low + (peak - low) * share
