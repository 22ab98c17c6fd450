"""Loads a recurrent model from a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint, ShardedTensor
from pretrain.config.sections import RnnConfig
from pretrain.megatron.restore import TOKENIZER_FOLDER, open_saved
from pretrain.rnn.model import Rnn, build_rnn


@dataclass(frozen=True)
class SavedRnn:
    """A model, ready to read, with the config that made it."""

    checkpoint: Checkpoint
    config: RnnConfig
    tokenizer: Tokenizer
    model: Rnn


def dtype_of(config: RnnConfig) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def load_rnn(path: str | Path, device: torch.device, say: Callable[[str], None] = lambda _: None) -> SavedRnn:
    """Find, verify and load the model of a run folder or a step folder.

    Raises UserError or IntegrityError if the run trained something else or the folder is damaged.
    """
    checkpoint, config = open_saved(path, RnnConfig, "a recurrent model", say)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_FOLDER)
    model = build_rnn(config.model, tokenizer.vocab_size, config.run.seed, dtype_of(config))
    checkpoint.load(
        ShardedTensor.whole(name, parameter.detach()) for name, parameter in model.named_parameters()
    )
    return SavedRnn(checkpoint, config, tokenizer, model.to(device).eval())
