"""The config of an evaluation: that of the checkpoint, on a layout of its own.

What the model is and what it was trained on comes from the checkpoint. The layout of training is not taken
over: evaluation starts from one rank per replica, and `parallel.*` overrides say otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_tools.sources import is_remote
from pretrain.config import derived
from pretrain.config.load import read_config
from pretrain.config.narrow import narrow
from pretrain.config.node import ConfigError
from pretrain.config.rule import PROCESSES, Violation
from pretrain.config.rules import violations
from pretrain.config.rules.remote import CACHE_OF_NOTHING
from pretrain.config.schema import nearest_name
from pretrain.config.sections import (
    ChatConfig,
    Config,
    CorpusConfig,
    FinetuneConfig,
    ParallelConfig,
    RnnConfig,
    TextConfig,
)
from pretrain.errors import UserError

REPLACED = ("data.train", "data.validation")
"""Keys of a run on shards that `--data` stands for."""
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
FINETUNED_OVERRIDES = (*LAYOUT_OVERRIDES, "data.train", "data.validation")
"""Those of a fine-tuned BERT, whose training file says which classes there are."""
CHAT_OVERRIDES = (
    *LAYOUT_OVERRIDES,
    *(f"data.{key}" for key in ("validation", "prompt", "response", "messages", "too_long")),
)
"""Those of a GPT that was fine-tuned on conversations."""


def evaluation_config(
    path: Path,
    overrides: Sequence[str],
    world_size: int,
    *,
    data: Sequence[str],
    known: Sequence[str] | None = None,
) -> TextConfig:
    """The config in the file `path` of a checkpoint, for evaluation on `world_size` ranks.

    data: what is scored, where it is named beside it: the config's limits on its own data do not hold then.
    known: keys that have an effect; None: those of its kind. Raises UserError with everything that is
    wrong with the overrides.
    """
    saved = read_config(str(path), saved=True).config
    given = _given(overrides, _known(saved) if known is None else known, bool(data), _replaced(saved))
    corpus = isinstance(saved, CorpusConfig)
    layout = ParallelConfig().model_dump()
    layers = [*overrides, *_defaults(given, bool(data), layout, corpus=corpus)]
    loaded = read_config(str(path), layers, saved=True)
    config = _fit_batch(narrow(loaded.config, TextConfig, "this evaluation"), world_size)
    if found := _broken(config, world_size, data):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def recurrent_config(path: Path, overrides: Sequence[str], *, data: Sequence[str]) -> RnnConfig:
    """As `evaluation_config`, for a recurrent model; how it is spread over ranks decides nothing."""
    known = [key for key in OVERRIDES if not key.startswith("parallel.")]
    given = _given(overrides, known, bool(data), REPLACED)
    loaded = read_config(str(path), [*overrides, *_defaults(given, bool(data), {}, corpus=True)])
    config = narrow(loaded.config, RnnConfig, "this evaluation")
    if found := _broken(config, None, data):
        raise ConfigError([_settable(violation).problem(loaded.sources) for violation in found])
    return config


def one_file(paths: Sequence[str], validation: str | None) -> str:
    """What is scored of a fine-tuned model: the file of `--data`, or else that of `data.validation`.

    Raises UserError: there is neither, or more than one.
    """
    if len(paths) > 1:
        raise UserError(f"--data {paths[1]}: one file at a time; the tasks of a suite have one each")
    if not paths and validation is None:
        raise UserError("the run has no data.validation; name a file to score with --data FILE")
    return paths[0] if paths else str(validation)


def _known(config: Config) -> Sequence[str]:
    if isinstance(config, ChatConfig):
        return CHAT_OVERRIDES
    return FINETUNED_OVERRIDES if isinstance(config, FinetuneConfig) else OVERRIDES


def _replaced(config: Config) -> Sequence[str]:
    """Keys that `--data` stands for."""
    return REPLACED if isinstance(config, CorpusConfig) else REPLACED[1:]


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
    """The violation with those of its remedies that an evaluation has: the model is as it is."""
    keys = {*OVERRIDES, PROCESSES}
    remedies = {key: values for key, values in violation.suggestions.items() if key in keys}
    return replace(violation, suggestions=remedies)


def _defaults(
    given: Sequence[str], other_data: bool, layout: Mapping[str, object], *, corpus: bool
) -> list[str]:
    """Overrides that put the checkpoint's layout, and limits that do not hold, back to their defaults."""
    defaults: dict[str, object] = {f"parallel.{key}": value for key, value in layout.items()}
    if corpus:
        defaults["data.tokenizer"] = None  # the checkpoint carries its own
    if corpus and other_data:
        defaults["eval.max_windows"] = None
    return [
        f"{key}={'null' if value is None else str(value).lower()}"
        for key, value in defaults.items()
        if key not in given
    ]


def _fit_batch(config: TextConfig, world_size: int) -> TextConfig:
    """A global batch that any layout divides: evaluation takes no steps, but the rules speak of one."""
    replicas = derived.data_parallel_size(config, world_size) or 1
    rounds = config.parallel.pipeline if config.parallel.virtual_pipeline else 1
    size = config.batch.micro_size * replicas * rounds
    return config.model_copy(update={"batch": config.batch.model_copy(update={"global_size": size})})
