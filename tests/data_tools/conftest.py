"""Small tokenizers and shard directories that the tests of this room share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.builder import BuildOptions, build
from data_tools.embedded import language_reference
from data_tools.tokenizer import Tokenizer
from data_tools.train_tokenizer import train_tokenizer

SIZES = {"bpe": 600, "unigram": 600, "char": None, "byte": None}


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """A few documents of real text with something awkward in each."""
    topics = [text for _, text in language_reference()][:12]
    return [
        f"{text[:3000]}\n\tdef f(x):\r\n        return '\u2581é漢🙂' {number}\n"
        for number, text in enumerate(topics)
    ]


@pytest.fixture(scope="session")
def tokenizers(texts: list[str]) -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(texts, kind, size) for kind, size in SIZES.items()}


@pytest.fixture(scope="session")
def tokenizer_path(tokenizers: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizers["bpe"].save(path)
    return str(path)


@pytest.fixture(scope="session")
def byte_path(tokenizers: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("byte-tokenizer")
    tokenizers["byte"].save(path)
    return str(path)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes documents to a .jsonl file and gives its path."""

    def write(documents: list[str], name: str = "input.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def shards(tmp_path: Path, texts: list[str], tokenizer_path: str, jsonl: Callable[..., str]) -> Path:
    """A fresh small shard directory of several blocks, some documents spanning blocks."""
    output = tmp_path / "shards"
    build(BuildOptions((jsonl(texts),), tokenizer_path, str(output), workers=1, block_tokens=1024))
    return output
