"""Rules between keys of a run whose every rank holds the whole model."""

from pretrain.config.rule import PROCESSES, Rule, Setup, divisors_near, multiples_near
from pretrain.config.sections import CnnConfig, RnnConfig

ReplicaConfig = CnnConfig | RnnConfig


def _unit(setup: Setup[ReplicaConfig]) -> int:
    """Samples of one micro-batch on every rank."""
    return setup.config.batch.micro_size * (setup.world_size or 1)


def rules(samples: str) -> tuple[Rule[ReplicaConfig], ...]:
    """They call what a batch consists of by the name `samples`."""
    rule = Rule(
        name="batch divides into micro-batches on every rank",
        key="batch.global_size",
        applies=lambda s: True,
        holds=lambda s: s.config.batch.global_size % _unit(s) == 0,
        message=lambda s: (
            f"{s.config.batch.global_size} {samples} are "
            "no multiple of micro_size"
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
    )
    return (rule,)
