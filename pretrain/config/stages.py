"""The stages of a run whose batches grow: which batch a step has, and what was seen before it."""

from dataclasses import dataclass

from pretrain.config.sections import BatchConfig, CorpusConfig, TextConfig


@dataclass(frozen=True)
class Stage:
    """Steps [first, stop), counted from 0, that have one size of batch; `stop` None in the last stage."""

    first: int
    stop: int | None
    batch: BatchConfig

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.batch.global_size * self.batch.sequence_length

    def micro_batches(self, data_parallel: int) -> int:
        """Micro-batches per replica and step (gradient accumulation)."""
        return self.batch.global_size // (self.batch.micro_size * data_parallel)


def stages(config: TextConfig) -> tuple[Stage, ...]:
    """The stages of `schedule.sequence_length`, and the one of `batch` that goes on to the end."""
    found, first = list[Stage](), 0
    for given in (config.schedule.sequence_length or ()) if isinstance(config, CorpusConfig) else ():
        batch = BatchConfig(
            sequence_length=given.sequence_length,
            global_size=given.global_size or config.batch.global_size,
            micro_size=given.micro_size or config.batch.micro_size,
        )
        found.append(Stage(first, given.until, batch))
        first = given.until
    return (*found, Stage(first, None, config.batch))


def tokens_until(config: TextConfig, steps: int) -> int:
    """Tokens of the first `steps` steps."""
    return sum(stage.tokens_per_step * _steps_in(stage, steps) for stage in stages(config))


def samples_until(config: TextConfig, steps: int) -> int:
    """Samples of the first `steps` steps."""
    return sum(stage.batch.global_size * _steps_in(stage, steps) for stage in stages(config))


def _steps_in(stage: Stage, steps: int) -> int:
    """How many of the first `steps` steps belong to a stage."""
    return max(0, min(steps, steps if stage.stop is None else stage.stop) - stage.first)
