"""The config of an evaluation: that of the checkpoint, on a layout of its own.

What the model is and what it was trained on comes from the checkpoint. The layout of training is not taken
over: evaluation starts from one rank per replica, and `parallel.*` overrides say otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pretrain.config import derived
from pretrain.config.load import read_config
from pretrain.config.narrow import narrow
from pretrain.config.node import ConfigError
from pretrain.config.rule import PROCESSES, Violation
from pretrain.config.rules import violations
from pretrain.config.schema import nearest_name
from pretrain.config.sections import CorpusConfig, ParallelConfig, RnnConfig
from pretrain.errors import UserError

LAYOUT_OVERRIDES = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.virtual_pipeline",
    "parallel.context",
    "parallel.sequence",
    "batch.micro_size",
)
"""Keys that say how an evaluation is spread over ranks."""
OVERRIDES = (
    *LAYOUT_OVERRIDES,
    "eval.max_windows",
    "data.train",
    "data.validation",
    "data.cache_dir",
    "data.cache_bytes",
)
"""Keys that have an effect on an evaluation; all others belong to the training that is done."""


def evaluation_config(
    path: Path,
    overrides: Sequence[str],
    world_size: int,
    *,
    other_data: bool,
    known: Sequence[str] = OVERRIDES,
) -> CorpusConfig:
    """The config in the file `path` of a checkpoint, for evaluation on `world_size` ranks.

    other_data: what is scored is named beside it, so the config's limits on its own data do not hold.
    known: keys that have an effect. Raises UserError with everything that is wrong with the overrides.
    """
    given = _given(overrides, known, other_data)
    loaded = read_config(
        str(path), [*overrides, *_defaults(given, other_data, ParallelConfig().model_dump())]
    )
    config = _fit_batch(narrow(loaded.config, CorpusConfig, "this evaluation"), world_size)
    if found := violations(config, world_size):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def recurrent_config(path: Path, overrides: Sequence[str], *, other_data: bool) -> RnnConfig:
    """As `evaluation_config`, for a recurrent model; how it is spread over ranks decides nothing."""
    given = _given(overrides, [key for key in OVERRIDES if not key.startswith("parallel.")], other_data)
    loaded = read_config(str(path), [*overrides, *_defaults(given, other_data, {})])
    config = narrow(loaded.config, RnnConfig, "this evaluation")
    if found := violations(config, None):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def _given(overrides: Sequence[str], known: Sequence[str], other_data: bool) -> list[str]:
    """The keys of the overrides; raises UserError for one without effect."""
    given = [override.partition("=")[0] for override in overrides]
    for key in given:
        if key not in known:
            meant = nearest_name(key, known)
            raise UserError(
                f"{key} has no effect on an evaluation"
                + (f"; did you mean '{meant}'?" if meant else f"; these have: {', '.join(known)}")
            )
        if other_data and key in ("data.train", "data.validation"):
            raise UserError(f"{key} has no effect with --data; remove one of them")
    return given


def _settable(violation: Violation) -> Violation:
    """The violation with those of its remedies that an evaluation has: the model is as it is."""
    keys = {*OVERRIDES, PROCESSES}
    remedies = {key: values for key, values in violation.suggestions.items() if key in keys}
    return replace(violation, suggestions=remedies)


def _defaults(given: Sequence[str], other_data: bool, layout: Mapping[str, object]) -> list[str]:
    """Overrides that put the checkpoint's layout, and limits that do not hold, back to their defaults."""
    defaults: dict[str, object] = {f"parallel.{key}": value for key, value in layout.items()}
    defaults["data.tokenizer"] = None  # the checkpoint carries its own
    if other_data:
        defaults["eval.max_windows"] = None
    return [f"{key}={_yaml(value)}" for key, value in defaults.items() if key not in given]


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower()


def _fit_batch(config: CorpusConfig, world_size: int) -> CorpusConfig:
    """A global batch that any layout divides: evaluation takes no steps, but the rules speak of one."""
    replicas = derived.data_parallel_size(config, world_size) or 1
    rounds = config.parallel.pipeline if config.parallel.virtual_pipeline else 1
    size = config.batch.micro_size * replicas * rounds
    return config.model_copy(update={"batch": config.batch.model_copy(update={"global_size": size})})
