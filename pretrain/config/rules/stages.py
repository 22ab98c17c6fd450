"""Rules of `schedule.sequence_length`.

What is legal on purpose: stages that last beyond `run.steps` (short trials).
"""

from collections.abc import Callable
from itertools import pairwise

from pretrain.config.rule import Rule, Setup
from pretrain.config.rules.text import BATCH_RULES, PIPELINE_RULES
from pretrain.config.sections import CorpusConfig
from pretrain.config.stages import Stage, stages

CorpusSetup = Setup[CorpusConfig]


def _with_batch(setup: CorpusSetup, stage: Stage) -> CorpusSetup:
    return Setup(setup.config.model_copy(update={"batch": stage.batch}), setup.world_size)


def _illegal(setup: CorpusSetup) -> list[str]:
    """What is wrong with the batches of stages before the last, whose batch has rules of its own."""
    return [
        f"until {stage.stop}: {rule.message(changed)}"
        for stage in stages(setup.config)[:-1]
        for changed in (_with_batch(setup, stage),)
        for rule in (*PIPELINE_RULES, *BATCH_RULES)
        if rule.key.startswith("batch.") and rule.broken(changed)
    ]


def _out_of_order(setup: CorpusSetup) -> list[str]:
    ends = [stage.stop for stage in stages(setup.config)[:-1]]
    return [
        f"until {after} stands after until {before}; each stage must end later than the one before"
        for before, after in pairwise(ends)
        if before is not None and after is not None and after <= before
    ]


def _not_growing(setup: CorpusSetup) -> list[str]:
    found = []
    for stage, following in pairwise(stages(setup.config)):
        what = "batch" if following.stop is None else f"the stage until {following.stop}"
        if stage.batch.sequence_length > following.batch.sequence_length:
            found.append(
                f"until {stage.stop}: sequence_length {stage.batch.sequence_length} is longer than that of "
                f"{what}, {following.batch.sequence_length}; sequences may grow, not shrink"
            )
        elif stage.batch == following.batch:
            found.append(f"until {stage.stop}: has no effect, its batches are those of {what}; remove it")
    return found


def _rule(name: str, problems: Callable[[CorpusSetup], list[str]]) -> Rule[CorpusConfig]:
    return Rule(
        name=name,
        key="schedule.sequence_length",
        applies=lambda s: s.config.schedule.sequence_length is not None,
        holds=lambda s: not problems(s),
        message=lambda s: "; ".join(problems(s)),
    )


RULES: tuple[Rule[CorpusConfig], ...] = (
    _rule("stages follow one another", _out_of_order),
    _rule("sequences grow", _not_growing),
    _rule("every stage has a legal batch", _illegal),
)
