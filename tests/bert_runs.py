"""For tests of fine-tuning: a BERT's run with random weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from config_files import REPOSITORY

from data_tools.train_tokenizer import train_tokenizer
from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.load import read_config
from pretrain.config.sections import TextConfig
from pretrain.hf.known import architecture_of
from pretrain.hf.new_run import write_run


def bert_run(folder: Path, texts: Sequence[str], *overrides: str) -> Path:
    """A run of configs/bert/tiny.yaml over the letters of these texts, with 64 positions."""
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
    write_run(folder, "a test", config, tokenizer.vocab_size, sources, tokenizer)
    return folder
