"""Rules between keys of a run that trains a convolutional classifier."""

from pretrain.config.rule import Rule, only_beside
from pretrain.config.rules.sources import trained_on
from pretrain.config.sections import CnnConfig

RULES: tuple[Rule[CnnConfig], ...] = (
    Rule(
        name="validation images are not trained on",
        key="data.validation",
        holds=lambda s: not trained_on(s),
        message=lambda s: (
            f"'{trained_on(s)[0]}' is also in data.train: the accuracy would be that of images seen in "
            "training; build shards of other images"
        ),
    ),
    only_beside("validating needs images", "eval.every", "data.validation"),
)
