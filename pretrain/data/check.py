"""Opens the token shards of a config as training does, for `pretrain check`."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from data_tools.reader import ShardReader
from pretrain.config.load import LoadedConfig
from pretrain.config.node import ConfigError, Problem
from pretrain.config.sections import TokenConfig
from pretrain.data.dataset import TrainingDataset
from pretrain.data.sources import open_training, shard_cache
from pretrain.errors import IntegrityError, UserError

T = TypeVar("T", bound=TokenConfig)
Problems = list[tuple[str, UserError]]
"""Keys, each with what is wrong with it."""


def open_tokens(
    open_data: Callable[[T], tuple[TrainingDataset, object]],
    loaded: LoadedConfig,
    config: T,
    processes: int | None,
) -> TrainingDataset:
    """Open all shards that a config names; problems of several sources are reported together.

    Args:
        open_data: opens the training and validation datasets, once each source is known to be good.
        loaded: where its keys are written.
        config: of the run.
        processes: makes no difference.

    Raises:
        ConfigError: with every problem; IntegrityError if all of them are damage.
    """
    problems: Problems = []
    for source in config.data.train:
        alone = config.data.model_copy(update={"train": (source,)})
        try:
            open_training(config.model_copy(update={"data": alone}))
        except UserError as error:
            problems.append(("data.train", error))
    for source in config.data.validation or ():
        try:
            ShardReader(source.path, shard_cache(config.data))
        except UserError as error:
            problems.append(("data.validation", error))
    if not problems:
        try:
            dataset, _ = open_data(config)
            _ = dataset.tokenizer.fingerprint  # read it now: every checkpoint needs it
            return dataset
        except UserError as error:
            problems.append(("data", error))
    raise together(loaded, problems)


def together(loaded: LoadedConfig, problems: Sequence[tuple[str, UserError]]) -> UserError:
    """One error from several; it stays an IntegrityError if all of them are."""
    joined = ConfigError([_at_its_line(loaded, key, error) for key, error in problems])
    damaged = all(isinstance(error, IntegrityError) for _, error in problems)
    return IntegrityError(str(joined)) if damaged else joined


def _at_its_line(loaded: LoadedConfig, key: str, error: UserError) -> Problem:
    if error.key is not None and error.key in loaded.sources:
        return Problem(loaded.sources[error.key], error.key, error.text)
    return Problem(loaded.sources.get(key, loaded.sources["data.train"]), key, str(error))


def contents(training: TrainingDataset) -> str:
    """A description of what was opened."""
    return f"{training.vocab_size:,} ids"
