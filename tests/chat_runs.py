"""For tests of conversations: a GPT's run with random weights, and files of conversations."""

import json
from pathlib import Path
from typing import Any

import torch
from config_files import REPOSITORY, small_config

from data_tools.tokenizer import byte_tokenizer
from pretrain.checkpoint.tensors import TensorSource
from pretrain.config.load import read_config
from pretrain.config.sections import ChatConfig
from pretrain.hf.new_run import write_run
from pretrain.hf.registry import architecture_of

CONFIG = REPOSITORY / "configs" / "gpt" / "finetune-chat.yaml"
LENGTH = 96
PAIRS = [("red?", "fire"), ("blue?", "the sea"), ("green?", "grass"), ("white?", "snow, or milk")]


LEFT_BEHIND = {"tokenizer.json": "0123456789abcdef" * 4}


def gpt_run(folder: Path, std: float = 0.1, *, bare: bool = False) -> Path:
    """A run of a GPT over bytes whose weights are drawn, with a standard deviation.

    `bare`: as an import makes it whose tokenizer stays behind.
    """
    config = small_config(
        batch__sequence_length=LENGTH,
        model__num_layers=2,
        model__hidden_size=32,
        model__num_attention_heads=2,
    )
    generator = torch.Generator().manual_seed(1)
    sources = []
    for link in architecture_of(config).links(config, 257):
        whole = link.join([torch.randn(shape, generator=generator) * std for shape in link.shapes])
        sources.append(TensorSource.of(link.key, whole.contiguous()))
    folder.mkdir()
    tokenizer = None if bare else byte_tokenizer()
    write_run(folder, "a test", config, 257, sources, tokenizer, None, LEFT_BEHIND if bare else None)
    return folder


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    return write_jsonl(path, [{"prompt": prompt, "response": response} for prompt, response in pairs])


def overrides_for(gpt: Path, train: Path, run: Path, *more: str) -> list[str]:
    """For `CONFIG`, on the files of a test; the last of several values of a key counts."""
    given = [
        f"model.init_from={gpt}",
        f"data.train={train}",
        "data.validation=null",
        "eval.every=null",
        f"run.dir={run}",
        "batch.global_size=4",
        "batch.micro_size=4",
        "schedule.warmup_steps=2",
        "optimizer.lr=1e-2",
        "tracking.enabled=false",
        *more,
    ]
    return list({text.partition("=")[0]: text for text in given}.values())


def chat_config(gpt: Path, train: Path, *more: str) -> ChatConfig:
    config = read_config(str(CONFIG), overrides_for(gpt, train, train.parent / "unused", *more)).config
    assert isinstance(config, ChatConfig)
    return config
