"""Rules of `schedule.sequence_length`, `schedule.batch_size` and of schedules in tokens."""

from collections.abc import Callable
from itertools import pairwise

from pretrain.config.rule import Remedies, Rule, Setup, not_beside, only_beside, only_with, unless
from pretrain.config.rules.transformer import BATCH_RULES, PIPELINE_RULES
from pretrain.config.sections import CorpusConfig
from pretrain.config.stages import stages

CorpusSetup = Setup[CorpusConfig]


def _illegal(setup: CorpusSetup) -> list[str]:
    """What is wrong with batches of stages before the last; the last one's batch has rules of its own."""
    return [
        f"until {stage.stop}: {rule.text(changed)}"
        for stage in stages(setup.config)[:-1]
        for changed in (Setup(setup.config.model_copy(update={"batch": stage.batch}), setup.world_size),)
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
        elif setup.config.schedule.batch_size and stage.batch.global_size > following.batch.global_size:
            found.append(
                f"until {stage.stop}: global_size {stage.batch.global_size} is larger than that of {what}, "
                f"{following.batch.global_size}; batches may grow, not shrink"
            )
        elif stage.batch == following.batch:
            found.append(f"until {stage.stop}: has no effect, its batches are those of {what}; remove it")
    return found


def _last_until(setup: CorpusSetup) -> int:
    """The step after which batches are those of `batch`."""
    return stages(setup.config)[-1].first


def _never_full(setup: CorpusSetup) -> list[str]:
    last, steps = _last_until(setup), setup.config.run.steps
    if last < steps:
        return []
    return [
        f"until {last}: the run ends at step {steps}, so no step has the batches of `batch`; end the stages "
        f"before step {steps}, or prolong the run"
    ]


def _rules(key: str) -> tuple[Rule[CorpusConfig], ...]:
    """The same rules for either kind of stages."""

    def rule(
        name: str,
        problems: Callable[[CorpusSetup], list[str]],
        remedies: Remedies[CorpusConfig] | None = None,
    ) -> Rule[CorpusConfig]:
        return Rule(
            name=name if key == "schedule.sequence_length" else f"{key}: {name}",
            key=key,
            applies=lambda s: s.value(key) is not None,
            holds=lambda s: not problems(s),
            message=lambda s: "; ".join(problems(s)),
            remedies=remedies or {},
        )

    return (
        rule("stages follow one another", _out_of_order),
        rule("sequences grow", _not_growing),
        rule("every stage has a legal batch", _illegal),
        rule("stages end before the run", _never_full, {"run.steps": lambda s: [_last_until(s) + 1]}),
    )


_IN_TOKENS: tuple[Rule[CorpusConfig], ...] = (
    unless(
        "one kind of stages",
        "schedule.batch_size",
        lambda s: s.config.schedule.sequence_length is not None,
        "and schedule.sequence_length exclude each other; the latter's stages may have a global_size",
    ),
    only_beside(
        "a warm-up in tokens needs a decay in tokens", "schedule.warmup_tokens", "schedule.decay_tokens"
    ),
    not_beside("one length of the decay", "schedule.decay_steps", "schedule.decay_tokens"),
    unless(
        "a warm-up in the decay's unit",
        "schedule.warmup_steps",
        lambda s: s.value("schedule.warmup_steps") != 0 and s.config.schedule.decay_tokens is not None,
        "has no effect with schedule.decay_tokens; give schedule.warmup_tokens",
    ),
    only_with(
        *("only cosine and linear decays are counted in tokens", "schedule.decay_tokens"),
        *("schedule.kind", "cosine", "linear"),
    ),
    Rule(
        name="warm-up in tokens ends before the decay",
        key="schedule.warmup_tokens",
        applies=lambda s: s.config.schedule.decay_tokens is not None,
        holds=lambda s: (s.config.schedule.warmup_tokens or 0) < (s.config.schedule.decay_tokens or 1),
        message=(
            "a warm-up of {schedule.warmup_tokens} tokens leaves nothing of the schedule: "
            "decay_tokens {schedule.decay_tokens}"
        ),
    ),
)

RULES: tuple[Rule[CorpusConfig], ...] = (
    *_rules("schedule.sequence_length"),
    *_rules("schedule.batch_size"),
    *_IN_TOKENS,
)
