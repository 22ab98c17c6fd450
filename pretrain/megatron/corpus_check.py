"""For `pretrain check`: opens the shards of a transformer's config and the run that its weights come from."""

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
    """Print a line that is not a result, on standard error."""
    print(line, file=sys.stderr)


def open_corpus(
    loaded: LoadedConfig, config: T, open_feed: Callable[[T], TrainingDataset]
) -> TrainingDataset:
    """As `open_tokens`, and also open the run that the weights come from.

    Raises:
        ConfigError, IntegrityError: as `open_tokens`; or that run does not exist, or has another tokenizer.
    """
    training = open_tokens(loaded, config, open_feed)
    try:
        if init_from := find_init_from(config, say):
            require_tokenizer(config, init_from, training.tokenizer.fingerprint)
    except UserError as error:
        raise together(loaded, [("model.init_from", error)]) from None
    return training
