"""Loads a recurrent model from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import Checkpoint, ShardedTensor, open_checkpoint
from pretrain.config.load import read_config, require_kind
from pretrain.config.sections import RnnConfig
from pretrain.megatron.restore import RESOLVED_CONFIG, TOKENIZER_FOLDER
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


def load_rnn(path: Path, device: torch.device) -> SavedRnn:
    """Load a verified step folder.

    Raises UserError or IntegrityError if the run trained something else or the folder is damaged.
    """
    checkpoint = open_checkpoint(path)
    loaded = read_config(str(path / RESOLVED_CONFIG)).config
    config = require_kind(loaded, RnnConfig, f"{path}: a recurrent model")
    tokenizer = Tokenizer.load(path / TOKENIZER_FOLDER)
    model = build_rnn(config.model, tokenizer.vocab_size, config.run.seed, dtype_of(config))
    checkpoint.load(
        ShardedTensor.whole(name, parameter.detach()) for name, parameter in model.named_parameters()
    )
    return SavedRnn(checkpoint, config, tokenizer, model.to(device).eval())
