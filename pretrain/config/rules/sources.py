"""Rules between the sources of a run, `data.train` and `data.validation`, whatever they hold."""

from pathlib import PurePosixPath

from pretrain.config.rule import Rule, Setup
from pretrain.config.sections import CnnConfig, GanConfig, Source, TokenConfig

SourcedConfig = TokenConfig | CnnConfig


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


def trained_on(setup: Setup[SourcedConfig]) -> list[str]:
    """Paths that are used for both training and validation."""
    train = {_same(source.path) for source in setup.config.data.train}
    return [source.path for source in setup.config.data.validation or () if _same(source.path) in train]


TRAINING: tuple[Rule[SourcedConfig | GanConfig], ...] = (
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
        holds=lambda s: not _repeated(s.config.data.train),
        message=lambda s: (
            f"'{_repeated(s.config.data.train)[0]}' is listed twice; add up the weights instead"
        ),
    ),
)
"""Rules of the sources that are trained on."""

RULES: tuple[Rule[SourcedConfig], ...] = (
    *TRAINING,
    Rule(
        name="validation has no weights",
        key="data.validation",
        applies=lambda s: s.config.data.validation is not None,
        holds=lambda s: all("weight" not in one.model_fields_set for one in s.config.data.validation or ()),
        message=("weight has no effect on validation data, where every token is scored once; remove it"),
    ),
    Rule(
        name="a validation source stands once",
        key="data.validation",
        holds=lambda s: not _repeated(s.config.data.validation),
        message=lambda s: f"'{_repeated(s.config.data.validation)[0]}' is listed twice",
    ),
)
