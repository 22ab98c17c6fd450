"""Rules between keys of a run in which every rank holds the whole model."""

from pretrain.config.rule import PROCESSES, Rule, Setup, divisors, multiple_of
from pretrain.config.sections import CnnConfig, RnnConfig

ReplicaConfig = CnnConfig | RnnConfig


def _unit(setup: Setup[ReplicaConfig]) -> int:
    """Samples of one micro-batch on every rank."""
    return setup.config.batch.micro_size * (setup.world_size or 1)


def rules(samples: str) -> tuple[Rule[ReplicaConfig], ...]:
    """The rules, whose messages call what a batch consists of `samples`."""

    def text(setup: Setup[ReplicaConfig]) -> str:
        batch = setup.config.batch
        unit = f" x processes = {batch.micro_size} x {setup.world_size}" if setup.world_size else ""
        return (
            f"{batch.global_size} {samples} are not a multiple of micro_size{unit or f' {batch.micro_size}'}"
        )

    return (
        multiple_of(
            "batch divides into micro-batches on every rank",
            "batch.global_size",
            _unit,
            text,
            remedies=divisors("batch.micro_size", lambda s: s.config.batch.global_size // (s.world_size or 1))
            | divisors(PROCESSES, lambda s: s.config.batch.global_size // s.config.batch.micro_size),
        ),
    )
