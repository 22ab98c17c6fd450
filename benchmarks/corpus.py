"""Text and shards for the benchmarks, made from what every Python carries."""

from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from data_tools.blocks import BLOCK_TOKENS, PartitionWriter
from data_tools.embedded import language_reference, stdlib_source
from data_tools.index import make_index, token_dtype, write_index
from data_tools.tokenizer import Tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.config.load import LoadedConfig, load_config

TOKENIZER_TEXTS = 200


def small_tokenizer(vocab_size: int) -> Tokenizer:
    """A BPE tokenizer of English and Python, trained on little text."""
    texts = [text for _, text in islice(language_reference(), TOKENIZER_TEXTS)]
    texts += [text for _, text in islice(stdlib_source(), TOKENIZER_TEXTS)]
    return train_tokenizer(texts, "bpe", vocab_size, sample_lines=20_000)


def prose() -> list[str]:
    """The language reference as English text, one space between words."""
    return [" ".join(text.split()) for _, text in language_reference()]


def random_shards(path: Path, tokenizer: Tokenizer, tokens: int, document: int = 1000) -> Path:
    """A shard directory of random ids in documents of `document` tokens, without encoding any text.

    What is timed on it (reading, steps, start) does not depend on which ids it holds.
    """
    path.mkdir(parents=True)
    vocab, eod = tokenizer.vocab_size, tokenizer.eod_id
    writer = PartitionWriter(path, path, 0, vocab, eod, BLOCK_TOKENS)
    generator = np.random.default_rng(0)
    ids = generator.integers(0, vocab, 1 << 20, dtype=np.int32)
    ids[ids == eod] = 0
    for start in range(0, tokens, document):
        length = min(document, tokens - start)
        first = start % (len(ids) - document)
        writer.start_document()
        writer.add(ids[first : first + length - 1])
        writer.end_document()
    shards = writer.close()
    documents = -(-tokens // document)
    index = make_index(
        dtype=token_dtype(vocab),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=vocab,
        eod_id=eod,
        tokens=sum(block.tokens for shard in shards for block in shard.blocks),
        documents=documents,
        bytes=tokens,
        words=documents,
        shards=shards,
    )
    tokenizer.save(path / "tokenizer")
    write_index(path, index)
    return path


def gpt_config(folder: Path, shards: Path, *overrides: str, processes: int = 1) -> LoadedConfig:
    """The config of issue-sized measurements: 4 layers, hidden 256, sequence 256, batch 4; exact GELU."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(gpt_tree(folder / "run", shards)))
    return load_config(str(path), overrides, processes)


def gpt_tree(run: Path, shards: Path) -> dict[str, object]:
    """The same as a YAML tree."""
    return {
        "run": {"dir": str(run), "steps": 1_000_000},
        "model": {
            "kind": "gpt",
            "num_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "activation": "gelu",
        },
        "batch": {"global_size": 4, "micro_size": 4, "sequence_length": 256},
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "constant"},
        "data": {"train": str(shards)},
        "tracking": {"enabled": False},
    }
