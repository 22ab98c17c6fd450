"""Ramp-up stages: which batch a step has in a run whose batches grow, and how much was seen before it."""

from dataclasses import dataclass

from pretrain.config.sections import BatchConfig, TextConfig


@dataclass(frozen=True)
class Stage:
    """Steps [first, stop), counted from 0, that have one batch size; `stop` is None in the last stage."""

    first: int
    stop: int | None
    batch: BatchConfig
    skipped: int = 0
    """Samples of the order that earlier stages have seen."""
    order: int = 0
    """Which order of samples it draws from; stages of growing batches share one."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch.global_size * self.batch.sequence_length

    def first_sample(self, step: int) -> int:
        """Position in the order of the first sample of step `step`, in a run without jumps."""
        return self.skipped + (step - self.first) * self.batch.global_size

    def micro_batches(self, data_parallel: int) -> int:
        """Micro-batches per replica and step (gradient accumulation)."""
        return self.batch.global_size // (self.batch.micro_size * data_parallel)


def stages(config: TextConfig) -> tuple[Stage, ...]:
    """The stages of `schedule.sequence_length` or `schedule.batch_size`, then that of `batch`, to the end."""
    schedule = config.corpus_schedule
    found, first, skipped = list[Stage](), 0, 0
    for smaller in schedule.batch_size or ():
        batch = config.batch.model_copy(update={"global_size": smaller.global_size})
        found.append(Stage(first, smaller.until, batch, skipped))
        skipped += (smaller.until - first) * smaller.global_size
        first = smaller.until
    rampup = schedule.sequence_length or ()
    for order, given in enumerate(rampup):
        batch = BatchConfig(
            sequence_length=given.sequence_length,
            global_size=given.global_size or config.batch.global_size,
            micro_size=given.micro_size or config.batch.micro_size,
        )
        found.append(Stage(first, given.until, batch, order=order))
        first = given.until
    return (*found, Stage(first, None, config.batch, skipped, len(rampup)))


def tokens_until(config: TextConfig, steps: int) -> int:
    """Tokens of the first `steps` steps."""
    return sum(stage.tokens_per_step * _steps_in(stage, steps) for stage in stages(config))


def steps_until(config: TextConfig, tokens: int) -> int:
    """Steps after which that many tokens have been seen."""
    for stage in stages(config):
        seen = tokens_until(config, stage.first)
        steps = stage.first + -(-max(0, tokens - seen) // stage.tokens_per_step)
        if stage.stop is None or steps <= stage.stop:
            break
    return steps


def samples_until(config: TextConfig, steps: int) -> int:
    """Samples of the first `steps` steps."""
    return sum(stage.batch.global_size * _steps_in(stage, steps) for stage in stages(config))


def samples_between(config: TextConfig, first: int, stop: int) -> dict[int, range]:
    """Positions of the samples of steps [first, stop), counted from 0, in each order that they draw from.

    This is for a run that has jumped over no samples.
    """
    found: dict[int, range] = {}
    for stage in stages(config):
        start, end = max(first, stage.first), stop if stage.stop is None else min(stop, stage.stop)
        if start < end:
            here = range(stage.first_sample(start), stage.first_sample(end))
            found[stage.order] = range(found.get(stage.order, here).start, here.stop)
    return found


def _steps_in(stage: Stage, steps: int) -> int:
    """How many of the first `steps` steps belong to a stage."""
    return max(0, min(steps, steps if stage.stop is None else stage.stop) - stage.first)
