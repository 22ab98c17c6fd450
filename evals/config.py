"""The config of an evaluation: that of the checkpoint, with parallel dims of its own.

The model and its training data come from the checkpoint. The parallel dims of training are not used:
evaluation starts from one rank per replica, and `parallel.*` overrides change that.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.sources import is_remote
from evals.scored import evaluation_of
from pretrain.config import derived
from pretrain.config.load import LoadedConfig, read_config, require_kind
from pretrain.config.node import ConfigError
from pretrain.config.rule import PROCESSES, Violation
from pretrain.config.rules import violations
from pretrain.config.rules.remote import CACHE_OF_NOTHING
from pretrain.config.schema import nearest_name
from pretrain.config.sections import Config, ParallelConfig, RnnConfig, TextConfig
from pretrain.errors import UserError
from pretrain.kind import LAYOUT_KEYS, SHARD_KEYS


def evaluation_config(
    path: Path,
    overrides: Sequence[str],
    world_size: int,
    *,
    data: Sequence[str],
    known: Sequence[str] | None = None,
) -> TextConfig:
    """The config in the file `path` of a checkpoint, for evaluation on `world_size` ranks.

    data: what is scored instead of the config's own data, whose limits then do not apply.
    known: keys that have an effect; None: those of its kind. Raises UserError with everything that is wrong
    with the overrides.
    """
    loaded = _read(path, overrides, data, known, on_layout=True)
    config = _fit_batch(require_kind(loaded.config, TextConfig, "this evaluation"), world_size)
    if found := _broken(config, world_size, data):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def recurrent_config(path: Path, overrides: Sequence[str], *, data: Sequence[str]) -> RnnConfig:
    """As `evaluation_config`, for a recurrent model; its distribution over ranks changes nothing."""
    loaded = _read(path, overrides, data)
    config = require_kind(loaded.config, RnnConfig, "this evaluation")
    if found := _broken(config, None, data):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def one_file(paths: Sequence[str], validation: str | None) -> str:
    """The file to score of a fine-tuned model: that of `--data`, or else that of `data.validation`.

    Raises UserError: there is neither, or more than one.
    """
    if len(paths) > 1:
        raise UserError(f"--data {paths[1]}: one file at a time; the tasks of a suite have one each")
    if not paths and validation is None:
        raise UserError("the run has no data.validation; name a file to score with --data FILE")
    return paths[0] if paths else str(validation)


def _read(
    path: Path,
    overrides: Sequence[str],
    data: Sequence[str],
    known: Sequence[str] | None = None,
    *,
    on_layout: bool = False,
) -> LoadedConfig:
    """The config with the overrides; keys that no longer apply are reset to their defaults.

    Arguments and errors as in `evaluation_config`; `on_layout`: the model is distributed by parallel dims.
    """
    evaluation = evaluation_of(read_config(str(path), saved=True).config)
    keys = evaluation.keys if known is None else known
    given = _given(overrides, keys, bool(data), evaluation.stands_for)
    layout = ParallelConfig().model_dump() if on_layout else {}
    defaults: dict[str, object] = {f"parallel.{key}": value for key, value in layout.items()}
    defaults |= dict.fromkeys((*evaluation.forgets, *(evaluation.forgets_with_data if data else ())))
    layers = [f"{key}={_yaml(value)}" for key, value in defaults.items() if key not in given]
    return read_config(str(path), [*overrides, *layers], saved=True)


def _given(
    overrides: Sequence[str], known: Sequence[str], other_data: bool, replaced: Sequence[str]
) -> list[str]:
    """The keys of the overrides; raises UserError for one without effect."""
    given = [override.partition("=")[0] for override in overrides]
    for key in given:
        if key not in known:
            meant = nearest_name(key, known)
            raise UserError(
                f"{key} has no effect on an evaluation"
                + (f"; did you mean '{meant}'?" if meant else f"; these have: {', '.join(known)}")
            )
        if other_data and key in replaced:
            raise UserError(f"{key} has no effect with --data; remove one of them")
    return given


def _broken(config: Config, world_size: int | None, data: Sequence[str]) -> list[Violation]:
    """The rules that a config breaks; its cache may be for `data` alone."""
    useful = any(map(is_remote, data))
    found = violations(config, world_size)
    return [violation for violation in found if not (useful and violation.rule == CACHE_OF_NOTHING)]


def _settable(violation: Violation) -> Violation:
    """The violation with only those remedies that an evaluation allows: the model cannot change."""
    keys = {*LAYOUT_KEYS, *SHARD_KEYS, PROCESSES}
    remedies = {key: values for key, values in violation.suggestions.items() if key in keys}
    return replace(violation, suggestions=remedies)


def _yaml(value: object) -> str:
    return "null" if value is None else str(value).lower()


def _fit_batch(config: TextConfig, world_size: int) -> TextConfig:
    """A global batch that any parallel dims divide: evaluation takes no optimizer steps, but the rules check
    it."""
    replicas = derived.data_parallel_size(config, world_size) or 1
    # The interleaved schedule needs a multiple of the pipeline's size as number of micro-batches.
    rounds = config.parallel.pipeline if config.parallel.virtual_pipeline else 1
    size = config.batch.micro_size * replicas * rounds
    return config.model_copy(update={"batch": config.batch.model_copy(update={"global_size": size})})
