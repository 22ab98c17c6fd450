"""Shards for a BERT's tests: the language reference as prose, or documents of one's own."""

import json
import random
from pathlib import Path
from typing import Any

from data_tools.builder import BuildOptions, build
from data_tools.embedded import language_reference
from data_tools.tokenizer import Tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.config.sections import BertConfig


def prose() -> list[str]:
    """79 documents of English text, one space between words."""
    return [" ".join(text.split()) for _, text in language_reference()]


def bert_tokenizer(vocab_size: int = 1000, **options: Any) -> Tokenizer:
    return train_tokenizer(prose()[:20], "bpe", vocab_size, **{"bert": True, **options})


def build_bert_shards(
    path: Path, documents: list[str], tokenizer: Tokenizer, sentences: str = "split", block_tokens: int = 4096
) -> Path:
    """Build `path/shards`."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path / "tokenizer")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (path / "text.jsonl").write_text(lines, encoding="utf-8")
    options = BuildOptions(
        (str(path / "text.jsonl"),),
        str(path / "tokenizer"),
        str(path / "shards"),
        workers=1,
        block_tokens=block_tokens,
        sentences=sentences,
    )
    build(options)
    return path / "shards"


def easy_bert_shards(path: Path) -> Path:
    """Build `path/shards`: 60 documents of 12 short sentences, each of few words, so that a little is learned
    at once."""
    draw = random.Random(5)
    words = ["".join(chr(97 + (i * j + salt) % 26) for j in range(4)) for salt in range(4) for i in range(9)]
    documents = [
        "\n".join(" ".join(draw.choices(words[number % 30 :], k=6)) + "." for _ in range(12))
        for number in range(60)
    ]
    return build_bert_shards(path, documents, train_tokenizer(documents, "char", bert=True), "lines")


def bert_config(shards: Path | None, *, length: int = 128, size: int = 64, **data: Any) -> BertConfig:
    train = {} if shards is None else {"train": ({"path": str(shards)},)}
    return BertConfig.model_validate(
        {
            "run": {"dir": "run", "steps": 10},
            "model": {"kind": "bert", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
            "batch": {"global_size": size, "micro_size": size, "sequence_length": length},
            "optimizer": {"lr": 1e-3},
            "data": train | data,
        }
    )
