"""Rules between keys of a run that trains a convolutional classifier."""

from pretrain.config.rule import PROCESSES, Rule, Setup, divisors_near, multiples_near, unless
from pretrain.config.rules.sources import trained_on
from pretrain.config.sections import CnnConfig


def _unit(setup: Setup[CnnConfig]) -> int:
    """Images of one micro-batch on every rank."""
    return setup.config.batch.micro_size * (setup.world_size or 1)


RULES: tuple[Rule[CnnConfig], ...] = (
    Rule(
        name="image batch divides into micro-batches",
        key="batch.global_size",
        applies=lambda s: True,
        holds=lambda s: s.config.batch.global_size % _unit(s) == 0,
        message=lambda s: (
            f"{s.config.batch.global_size} images are no multiple of micro_size"
            + (
                f" x processes = {s.config.batch.micro_size} x {s.world_size}"
                if s.world_size
                else f" {s.config.batch.micro_size}"
            )
        ),
        remedies={
            "batch.global_size": lambda s: multiples_near(s.config.batch.global_size, _unit(s)),
            "batch.micro_size": lambda s: divisors_near(
                s.config.batch.micro_size, s.config.batch.global_size // (s.world_size or 1)
            ),
            PROCESSES: lambda s: (
                divisors_near(s.world_size or 1, s.config.batch.global_size // s.config.batch.micro_size)
                if s.world_size
                else ()
            ),
        },
    ),
    Rule(
        name="validation images are not trained on",
        key="data.validation",
        applies=lambda s: True,
        holds=lambda s: not trained_on(s),
        message=lambda s: (
            f"'{trained_on(s)[0]}' is also in data.train: the accuracy would be that of images seen in "
            "training; build shards of other images"
        ),
    ),
    unless(
        "validating needs images",
        "eval.every",
        lambda s: s.config.data.validation is None,
        "has no effect without validation data; set data.validation",
    ),
)
