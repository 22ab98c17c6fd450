"""For `pretrain check`: opens the shards of a transformer's config and the run that its weights come from."""

from collections.abc import Callable
from typing import TypeVar

from pretrain.config.load import LoadedConfig
from pretrain.config.sections import BertConfig, GptConfig
from pretrain.data.check import open_tokens, together
from pretrain.data.dataset import TrainingDataset
from pretrain.errors import UserError
from pretrain.megatron.init_from import find_init_from, require_tokenizer
from pretrain.run.exit import print_error

T = TypeVar("T", GptConfig, BertConfig)


def open_corpus(
    open_data: Callable[[T], tuple[TrainingDataset, object]],
    loaded: LoadedConfig,
    config: T,
    processes: int | None,
) -> TrainingDataset:
    """As `open_tokens`, and also open the run that the weights come from.

    Raises:
        ConfigError, IntegrityError: as `open_tokens`; or that run does not exist, or has another tokenizer.
    """
    training = open_tokens(open_data, loaded, config, processes)
    try:
        if init_from := find_init_from(config, print_error):
            require_tokenizer(config, init_from, training.tokenizer.fingerprint)
    except UserError as error:
        raise together(loaded, [("model.init_from", error)]) from None
    return training
