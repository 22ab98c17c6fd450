"""Rules between keys of a run on token shards: what it trains and validates on."""

from pathlib import PurePosixPath

from pretrain.config.rule import Rule, Setup, unless
from pretrain.config.sections import CorpusConfig, Source


def _no_validation(setup: Setup[CorpusConfig]) -> bool:
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


def _trained_on(setup: Setup[CorpusConfig]) -> list[str]:
    train = {_same(source.path) for source in setup.config.data.train}
    return [source.path for source in setup.config.data.validation or () if _same(source.path) in train]


RULES: tuple[Rule[CorpusConfig], ...] = (
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
