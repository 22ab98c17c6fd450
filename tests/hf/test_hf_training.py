"""Models of Hugging Face imported, trained on and exported, against the same steps in plain transformers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("hf_training_worker.py")
MODELS = ("gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "bert", "megatron-bert")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hf")
    command = [sys.executable, "-W", "ignore", str(WORKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout", ["TP2", "PP2", "CP2"])
@pytest.mark.parametrize("name", MODELS)
def test_training_on_is_training_on_in_transformers(found: Any, name: str, layout: str) -> None:
    losses, expected = found[name]["losses"][layout], found[name]["expected"]
    assert losses[0] == pytest.approx(expected[0], abs=1e-5)
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < losses[0] - 0.1, "nothing was learnt, so nothing is shown"
    assert found[name]["apart"][layout] <= 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_are_the_same_bits(found: Any, name: str) -> None:
    assert found[name]["round trip"] == []
    assert found[name]["back"] == []
    assert found[name]["tokenizer"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_transformers_writes_the_same_greedy_text(found: Any, name: str) -> None:
    """A batch of 8 with padding and one text at a time, with and without a cache."""
    texts = found[name]["texts"]
    expected = texts.pop("theirs, one by one")
    assert len({*expected}) == 8
    for how, found_texts in texts.items():
        assert found_texts == expected[: len(found_texts)], how
