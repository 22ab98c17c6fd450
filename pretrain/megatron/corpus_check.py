"""The shards of a transformer's config and the run that it starts from, opened for `pretrain check`."""

import sys
from collections.abc import Callable
from typing import TypeVar

from pretrain.config.load import LoadedConfig
from pretrain.config.sections import BertConfig, GptConfig
from pretrain.data.check import open_tokens, together
from pretrain.data.dataset import TrainingDataset
from pretrain.errors import UserError
from pretrain.megatron.init_from import find_init_from, require_tokenizer

T = TypeVar("T", GptConfig, BertConfig)


def say(line: str) -> None:
    """What is no result goes to stderr."""
    print(line, file=sys.stderr)


def open_corpus(
    loaded: LoadedConfig, config: T, open_feed: Callable[[T], TrainingDataset]
) -> TrainingDataset:
    """As `open_tokens`, with the run that it starts from.

    Raises:
        ConfigError, IntegrityError: as `open_tokens`; or that run is not there, or has another tokenizer.
    """
    training = open_tokens(loaded, config, open_feed)
    try:
        if start := find_init_from(config, say):
            require_tokenizer(config, start, training.tokenizer.fingerprint)
    except UserError as error:
        raise together(loaded, [("model.init_from", error)]) from None
    return training
