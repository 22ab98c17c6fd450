"""Rules between keys of a run on token shards: what it trains and validates on."""

from pretrain.config.rule import Rule, Setup, not_beside, unless
from pretrain.config.rules.sources import trained_on
from pretrain.config.sections import TokenConfig

WINDOWS = "validating windows needs data"


def _no_validation(setup: Setup[TokenConfig]) -> bool:
    return setup.config.data.validation is None and setup.config.data.validation_fraction is None


RULES: tuple[Rule[TokenConfig], ...] = (
    not_beside("one way of validating", "data.validation_fraction", "data.validation"),
    Rule(
        name="validation data is not trained on",
        key="data.validation",
        holds=lambda s: not trained_on(s),
        message=lambda s: (
            f"'{trained_on(s)[0]}' is also in data.train: the score would be that of data seen in training; "
            f"use validation_fraction to hold out a part"
        ),
    ),
    *(
        unless(
            name,
            key,
            _no_validation,
            "has no effect without validation data; set data.validation or data.validation_fraction",
        )
        for name, key in (("validating needs data", "eval.every"), (WINDOWS, "eval.max_windows"))
    ),
)
