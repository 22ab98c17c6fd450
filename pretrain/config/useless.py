"""Rules against options that would have no effect, and against data that contradicts itself.

A key that changes nothing is most often a misunderstanding, so it is refused instead of being passed over.
What is legal on purpose: `tracking.uri` with `enabled: false` (`pretrain sync` reads it), `every` beyond
`run.steps` (short trials), `recompute: selective` (it also frees the gathered keys and values under
context parallelism), `num_query_groups` equal to the heads.
"""

from collections.abc import Callable
from pathlib import PurePosixPath

from pretrain.config.rule import Rule, Setup
from pretrain.config.sections import Source

TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def _unless(name: str, key: str, useless: Callable[[Setup], bool], message: str) -> Rule:
    """A rule that is broken where the key was given and `useless` says that it changes nothing."""

    def given(setup: Setup) -> bool:
        value = setup.value(key)
        return value is not None and value is not False

    return Rule(
        name, key, applies=given, holds=lambda setup: not useless(setup), message=lambda setup: message
    )


def _constant(setup: Setup) -> bool:
    return setup.config.schedule.kind == "constant"


def _one_gradient_owner(setup: Setup) -> bool:
    """Gradients and optimizer states are shared over data and context parallel ranks; is there one only?"""
    return setup.data_parallel == 1 and setup.config.parallel.context == 1


def _spikes_ignored(setup: Setup) -> bool:
    return setup.config.health.on_spike == "ignore"


def _no_validation(setup: Setup) -> bool:
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


def _trained_on(setup: Setup) -> list[str]:
    train = {_same(source.path) for source in setup.config.data.train}
    return [source.path for source in setup.config.data.validation or () if _same(source.path) in train]


_LAYOUT = (
    _unless(
        "sequence parallelism needs tensor parallelism",
        "parallel.sequence",
        lambda s: s.config.parallel.tensor == 1,
        "has no effect with parallel.tensor 1; remove it, or set parallel.tensor to 2 or more",
    ),
    _unless(
        "one model chunk is no virtual pipeline",
        "parallel.virtual_pipeline",
        lambda s: s.config.parallel.virtual_pipeline == 1,
        "1 has no effect; remove it, or set it to 2 or more",
    ),
    _unless(
        "a distributed optimizer needs several replicas",
        "parallel.distributed_optimizer",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    _unless(
        "overlapped reduction needs several replicas",
        "parallel.overlap_grad_reduce",
        _one_gradient_owner,
        "has no effect with data parallel size 1 and context 1; remove it, or add processes",
    ),
    _unless(
        "rotary_base needs rotary positions",
        "model.rotary_base",
        lambda s: s.config.model.position_embedding != "rotary",
        "has no effect with position_embedding learned; remove it, or set position_embedding: rotary",
    ),
)

_SCHEDULE = (
    _unless(
        "a constant schedule has no min_lr",
        "schedule.min_lr",
        _constant,
        "has no effect with kind constant; remove it, or set kind to cosine, linear or wsd",
    ),
    _unless(
        "a constant schedule has no decay",
        "schedule.decay_steps",
        _constant,
        "has no effect with kind constant; remove it, or set kind to cosine, linear or wsd",
    ),
)

_DATA = (
    _unless(
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
    _unless(
        "validating needs data",
        "eval.every",
        _no_validation,
        "has no effect without validation data; set data.validation or data.validation_fraction",
    ),
    _unless(
        "validating windows needs data",
        "eval.max_windows",
        _no_validation,
        "has no effect without validation data; set data.validation or data.validation_fraction",
    ),
)

_SERVICE = (
    _unless(
        "keeping checkpoints needs checkpoints",
        "checkpoint.keep_every",
        lambda s: s.config.checkpoint.every is None,
        "has no effect without checkpoint.every; set checkpoint.every, or remove it",
    ),
    _unless(
        "asynchronous saving needs saves during the run",
        "checkpoint.async",
        lambda s: s.config.checkpoint.every is None,
        "has no effect without checkpoint.every, as only the end of the run is saved; set checkpoint.every",
    ),
    _unless(
        "max_skips needs skipping",
        "health.max_skips",
        lambda s: s.config.health.on_nonfinite != "skip",
        "has no effect with on_nonfinite stop; remove it, or set on_nonfinite: skip",
    ),
    _unless(
        "a spike window needs verdicts",
        "health.spike_window",
        _spikes_ignored,
        "has no effect with on_spike ignore; remove it, or set on_spike to report or rollback",
    ),
    _unless(
        "a spike threshold needs verdicts",
        "health.spike_threshold",
        _spikes_ignored,
        "has no effect with on_spike ignore; remove it, or set on_spike to report or rollback",
    ),
    _unless(
        "max_rollbacks needs rollbacks",
        "health.max_rollbacks",
        lambda s: s.config.health.on_spike != "rollback",
        "has no effect unless on_spike is rollback; remove it, or set on_spike: rollback",
    ),
    Rule(
        name="rolling back needs checkpoints",
        key="health.on_spike",
        applies=lambda s: s.config.health.on_spike == "rollback",
        holds=lambda s: s.config.checkpoint.every is not None,
        message=lambda s: "rollback goes back to a checkpoint, and none is saved; set checkpoint.every",
    ),
    _unless(
        "comparing replicas needs several ranks",
        "health.replica_check_every",
        lambda s: s.world_size == 1,
        "has no effect with one process; remove it, or add processes",
    ),
    Rule(
        name="MLflow takes a server or a database",
        key="tracking.uri",
        applies=lambda s: s.config.tracking.uri not in (None, "databricks"),
        holds=lambda s: (
            (s.config.tracking.uri or "").split(":")[0].split("+")[0] in TRACKING_SCHEMES
            and ":" in (s.config.tracking.uri or "")
        ),
        message=lambda s: (
            f"must be a server (http://host:port) or a database (sqlite:///path/mlflow.db), got "
            f"'{s.config.tracking.uri}'; MLflow has given up plain folders"
        ),
    ),
)

USELESS = (*_LAYOUT, *_SCHEDULE, *_DATA, *_SERVICE)
