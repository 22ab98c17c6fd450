"""For tests of fine-tuning: a BERT's run with random weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from chat_runs import LEFT_BEHIND
from config_files import REPOSITORY

from data_tools.train_tokenizer import train_tokenizer
from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.load import read_config
from pretrain.config.sections import TextConfig
from pretrain.hf.new_run import write_run
from pretrain.hf.registry import architecture_of


def bert_run(folder: Path, texts: Sequence[str], *overrides: str, bare: bool = False) -> Path:
    """A run of configs/bert/tiny.yaml over the letters of these texts, with 64 positions.

    `bare`: as an import makes it whose tokenizer stays behind.
    """
    path = str(REPOSITORY / "configs" / "bert" / "tiny.yaml")
    config = read_config(path, ["batch.sequence_length=64", *overrides]).config
    assert isinstance(config, TextConfig)
    tokenizer = train_tokenizer(texts, "char", bert=True)
    generator, sources = torch.Generator().manual_seed(1), []
    for link in architecture_of(config).links(config, tokenizer.vocab_size):
        whole = link.join([torch.randn(shape, generator=generator) * 0.1 for shape in link.shapes])
        whole += link.key.endswith("norm.weight")
        sources.append(TensorSource.of(link.key, whole.contiguous()))
    folder.mkdir()
    left = LEFT_BEHIND if bare else None
    kept = None if bare else tokenizer
    write_run(folder, "a test", config, tokenizer.vocab_size, sources, kept, None, left)
    return folder
