"""Rules between keys of the learning rate's schedule."""

import math

from pretrain.config import derived
from pretrain.config.rule import Rule, Setup, only_with
from pretrain.config.sections import DescentConfig


def _warmup_end(setup: Setup[DescentConfig]) -> int:
    """The warm-up must be shorter than this."""
    config = setup.config
    if config.schedule.kind == "wsd":
        return max(0, config.run.steps - derived.decay_steps(config)) + 1
    return config.run.steps if config.schedule.kind == "constant" else derived.decay_steps(config)


_POSSIBLE: tuple[Rule[DescentConfig], ...] = (
    Rule(
        name="warm-up ends before the decay",
        key="schedule.warmup_steps",
        holds=lambda s: s.config.schedule.warmup_steps < _warmup_end(s),
        message=lambda s: (
            f"a warm-up of {s.config.schedule.warmup_steps} steps leaves nothing of the schedule: kind "
            f"{s.config.schedule.kind}, run.steps {s.config.run.steps}"
            + (
                f", decay_steps {derived.decay_steps(s.config)}"
                if s.config.schedule.kind != "constant"
                else ""
            )
        ),
        remedies={
            "schedule.warmup_steps": lambda s: [_warmup_end(s) - 1],
            "run.steps": lambda s: [
                steps
                for steps in (
                    s.config.schedule.warmup_steps + 1,
                    s.config.schedule.warmup_steps + derived.decay_steps(s.config),
                    math.ceil(s.config.schedule.warmup_steps / 0.9) + 1,
                )
                if steps > s.config.run.steps
            ],
        },
    ),
    Rule(
        name="wsd decay fits into the run",
        key="schedule.decay_steps",
        applies=lambda s: s.config.schedule.kind == "wsd",
        holds=lambda s: derived.decay_steps(s.config) <= s.config.run.steps,
        message=lambda s: (
            f"a final decay of {derived.decay_steps(s.config)} steps is longer than "
            f"run.steps {s.config.run.steps}"
        ),
        remedies={
            "schedule.decay_steps": lambda s: [max(1, s.config.run.steps - s.config.schedule.warmup_steps)]
        },
    ),
    Rule(
        name="min_lr is below lr",
        key="schedule.min_lr",
        applies=lambda s: s.config.schedule.min_lr is not None,
        holds=lambda s: derived.min_lr(s.config) <= s.config.optimizer.lr,
        message="{schedule.min_lr} is above optimizer.lr {optimizer.lr}",
        remedies={"schedule.min_lr": lambda s: [s.config.optimizer.lr / 10]},
    ),
)

_USELESS: tuple[Rule[DescentConfig], ...] = tuple(
    only_with(f"a constant schedule has no {what}", key, "schedule.kind", "cosine", "linear", "wsd")
    for what, key in (("min_lr", "schedule.min_lr"), ("decay", "schedule.decay_steps"))
)

RULES: tuple[Rule[DescentConfig], ...] = (*_POSSIBLE, *_USELESS)
