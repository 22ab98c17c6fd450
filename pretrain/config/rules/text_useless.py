"""Rules of a run on text against options that would have no effect, and data that contradicts itself.

A key that changes nothing is most often a misunderstanding, so it is refused instead of being passed over.
What is legal on purpose: `every` beyond `run.steps` (short trials), `recompute: selective` (it also frees the
gathered keys and values under context parallelism), `num_query_groups` equal to the heads.
"""

from pathlib import PurePosixPath

from pretrain.config.rule import Rule, unless
from pretrain.config.rules.text import TextRule, TextSetup
from pretrain.config.sections import Source


def _constant(setup: TextSetup) -> bool:
    return setup.config.schedule.kind == "constant"


def _one_gradient_owner(setup: TextSetup) -> bool:
    """Gradients and optimizer states are shared over data and context parallel ranks; is there one only?"""
    return setup.data_parallel == 1 and setup.config.parallel.context == 1


def _no_validation(setup: TextSetup) -> bool:
    return setup.config.data.validation is None and setup.config.data.validation_fraction is None


def _same(path: str) -> str:
    return str(PurePosixPath(path))


def _repeated(sources: tuple[Source, ...] | None) -> list[str]:
    seen: set[str] = set()
    twice = []
    for source in sources or ():
        if _same(source.path) in seen:
            twice.append(source.path)
        seen.add(_same(source.path))
    return twice


def _trained_on(setup: TextSetup) -> list[str]:
    train = {_same(source.path) for source in setup.config.data.train}
    return [source.path for source in setup.config.data.validation or () if _same(source.path) in train]


_LAYOUT: tuple[TextRule, ...] = (
    unless(
        "sequence parallelism needs tensor parallelism",
        "parallel.sequence",
        lambda s: s.config.parallel.tensor == 1,
        "has no effect with parallel.tensor 1; remove it, or set parallel.tensor to 2 or more",
    ),
    unless(
        "one model chunk is no virtual pipeline",
        "parallel.virtual_pipeline",
        lambda s: s.config.parallel.virtual_pipeline == 1,
        "1 has no effect; remove it, or set it to 2 or more",
    ),
    unless(
        "a distributed optimizer needs several replicas",
        "parallel.distributed_optimizer",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    unless(
        "overlapped reduction needs several replicas",
        "parallel.overlap_grad_reduce",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    unless(
        "rotary_base needs rotary positions",
        "model.rotary_base",
        lambda s: s.config.model.position_embedding != "rotary",
        "has no effect with position_embedding learned; remove it, or set position_embedding: rotary",
    ),
)

_SCHEDULE: tuple[TextRule, ...] = (
    unless(
        "a constant schedule has no min_lr",
        "schedule.min_lr",
        _constant,
        "has no effect with kind constant; remove it, or set kind to cosine, linear or wsd",
    ),
    unless(
        "a constant schedule has no decay",
        "schedule.decay_steps",
        _constant,
        "has no effect with kind constant; remove it, or set kind to cosine, linear or wsd",
    ),
)

_DATA: tuple[TextRule, ...] = (
    unless(
        "one way of validating",
        "data.validation_fraction",
        lambda s: s.config.data.validation is not None,
        "and data.validation exclude each other; remove one of them",
    ),
    Rule(
        name="validation has no weights",
        key="data.validation",
        applies=lambda s: s.config.data.validation is not None,
        holds=lambda s: all("weight" not in one.model_fields_set for one in s.config.data.validation or ()),
        message=lambda s: (
            "weight has no effect on validation data, where every token is scored once; remove it"
        ),
    ),
    Rule(
        name="one source has no weight",
        key="data.train",
        applies=lambda s: len(s.config.data.train) == 1,
        holds=lambda s: s.config.data.train[0].weight == 1,
        message=lambda s: (
            f"weight {s.config.data.train[0].weight} of the only source has no effect; remove it"
        ),
    ),
    Rule(
        name="a training source stands once",
        key="data.train",
        applies=lambda s: True,
        holds=lambda s: not _repeated(s.config.data.train),
        message=lambda s: (
            f"'{_repeated(s.config.data.train)[0]}' is listed twice; add up the weights instead"
        ),
    ),
    Rule(
        name="a validation source stands once",
        key="data.validation",
        applies=lambda s: True,
        holds=lambda s: not _repeated(s.config.data.validation),
        message=lambda s: f"'{_repeated(s.config.data.validation)[0]}' is listed twice",
    ),
    Rule(
        name="validation data is not trained on",
        key="data.validation",
        applies=lambda s: True,
        holds=lambda s: not _trained_on(s),
        message=lambda s: (
            f"'{_trained_on(s)[0]}' is also in data.train: the score would be that of data seen in training; "
            f"use validation_fraction to hold out a part"
        ),
    ),
    unless(
        "validating needs data",
        "eval.every",
        _no_validation,
        "has no effect without validation data; set data.validation or data.validation_fraction",
    ),
    unless(
        "validating windows needs data",
        "eval.max_windows",
        _no_validation,
        "has no effect without validation data; set data.validation or data.validation_fraction",
    ),
)

USELESS: tuple[TextRule, ...] = (*_LAYOUT, *_SCHEDULE, *_DATA)
