"""Every key that a BERT and its fine-tuning have beside a GPT's changes what is built, read or drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from bert_shards import bert_config, bert_tokenizer, build_bert_shards, prose
from config_files import REPOSITORY
from ranks import run_ranks

from data_tools.tokenizer import Tokenizer
from pretrain.bert.data.text import BertTrainingData
from pretrain.bert.finetune.data.data import open_labelled
from pretrain.config.node import dotted
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import (
    BertConfig,
    ClassifierConfig,
    FinetuneConfig,
    GptConfig,
    TaggerConfig,
)

FINETUNE_WORKER = REPOSITORY / "tests" / "bert" / "finetune_worker.py"
SAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data.nsp": ({"nsp": True}, {"nsp": False}),
    "data.mask_probability": ({}, {"mask_probability": 0.3}),
    "data.masking": ({}, {"masking": "span"}),
    "data.max_span": ({"masking": "span"}, {"masking": "span", "max_span": 2}),
    "data.short_sequence_probability": ({}, {"short_sequence_probability": 0.9}),
}
"""Keys of a BERT's data: two sections that differ in one key, and so in the samples."""

TABLE = "text\tother\tclass\tmood\nred fox\tblue\tx\tup\ngreen hen\tgrey\ty\tdown\nred hen\tblue\tx\tdown\n"
CONLL = "red fox X up\ngreen hen Y down\n\nred hen X down\n"
TEXTS: dict[str, Any] = {"kind": "bert-classifier", "train": "table.tsv", "text": "text", "label": "class"}
WORDS: dict[str, Any] = {"kind": "bert-tagger", "train": "words.conll"}
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data.text": (TEXTS, TEXTS | {"text": "other"}),
    "data.text_pair": (TEXTS, TEXTS | {"text_pair": "other"}),
    "data.label": (TEXTS, TEXTS | {"label": "mood"}),
    "data.labels": (TEXTS, TEXTS | {"labels": ["y", "x"]}),
    "data.word_column": (WORDS, WORDS | {"word_column": 1}),
    "data.label_column": (WORDS, WORDS | {"label_column": 2}),
}
"""Keys of labelled data: two sections that differ in one key, and so in the encoded examples."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bert_tokenizer()


@pytest.fixture(scope="module")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert_shards(tmp_path_factory.mktemp("bert"), prose()[:30], tokenizer)


@pytest.mark.parametrize("key", SAMPLES)
def test_keys_of_the_data(shards: Path, key: str) -> None:
    first, second = (BertTrainingData.from_config(bert_config(shards, **keys)) for keys in SAMPLES[key])
    assert first.fingerprint != second.fingerprint
    one, other = first.samples(range(32)), second.samples(range(32))
    assert one.tokens.tolist() != other.tokens.tolist() or one.labels.tolist() != other.labels.tolist()


def finetuning(folder: Path, keys: dict[str, Any]) -> FinetuneConfig:
    data = dict(keys)
    kind = data.pop("kind")
    tree = {
        "run": {"dir": "run", "steps": 1},
        "model": {
            "kind": kind,
            "init_from": "bert",
            "num_layers": 1,
            "hidden_size": 8,
            "num_attention_heads": 1,
        },
        "batch": {"global_size": 1, "sequence_length": 32},
        "optimizer": {"lr": 1e-3},
        "data": {**data, "train": str(folder / data["train"])},
    }
    return (TaggerConfig if kind == "bert-tagger" else ClassifierConfig).model_validate(tree)


@pytest.mark.parametrize("key", EXAMPLES)
def test_keys_of_labelled_data(tmp_path: Path, tokenizer: Tokenizer, key: str) -> None:
    (tmp_path / "table.tsv").write_text(TABLE)
    (tmp_path / "words.conll").write_text(CONLL)
    seen = []
    for keys in EXAMPLES[key]:
        data, _ = open_labelled(finetuning(tmp_path, keys), tokenizer, tmp_path)
        seen.append(([(each.tokens, each.label, each.tags) for each in data.examples], data.labels))
    assert seen[0] != seen[1]


ORIGIN = ["batch.sequence_length=32", "model.position_embedding=rotary"]


def made(folder: Path, seed: int) -> Path:
    """A BERT's run of one checkpoint, its weights as drawn from `seed`."""
    bert_tokenizer().save(folder / "tokenizer")
    config = str(REPOSITORY / "configs" / "bert" / "tiny.yaml")
    asked = {"make": str(folder), "config": config, "overrides": [*ORIGIN, f"run.seed={seed}"]}
    done = run_ranks(FINETUNE_WORKER, 1, asked)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_keys_of_the_start(tmp_path: Path) -> None:
    """model.init_from and model.init: the first loss is of other weights."""
    for name in ("table.tsv", "dev.tsv"):
        (tmp_path / name).write_text(TABLE)
    runs = [made(tmp_path / name, seed) for seed, name in enumerate(("one", "two"), 5)]
    common = [
        f"data.train={tmp_path}/table.tsv",
        f"data.validation={tmp_path}/dev.tsv",
        "data.text=text",
        "data.label=class",
        "batch.global_size=1",
        "batch.micro_size=1",
        "tracking.enabled=false",
        f"run.dir={tmp_path}/run",
    ]
    starts = {
        "one": [f"model.init_from={runs[0]}"],
        "two": [f"model.init_from={runs[1]}"],
        "random": [f"model.init_from={runs[0]}", "model.init=random"],
    }
    config = str(REPOSITORY / "configs" / "bert" / "finetune-classification.yaml")
    asked = {
        "output": str(tmp_path / "seen.json"),
        "steps": 1,
        "config": config,
        "runs": {name: common + keys for name, keys in starts.items()},
    }
    done = run_ranks(FINETUNE_WORKER, 1, asked)
    assert done.returncode == 0, done.stderr
    norms = {
        name: curve["norms"][0] for name, curve in json.loads((tmp_path / "seen.json").read_text()).items()
    }
    assert len(set(norms.values())) == 3, norms


ELSEWHERE = {
    "model.init_from": test_keys_of_the_start.__name__,
    "model.init": test_keys_of_the_start.__name__,
    "model.norm_position": "tests/hf/test_bert_hf.py: each position equals another published model",
}


def test_every_key_has_an_entry() -> None:
    mine = {
        dotted(path) for kind in (BertConfig, ClassifierConfig, TaggerConfig) for path, _ in leaf_keys(kind)
    }
    common = {dotted(path) for path, _ in leaf_keys(GptConfig)}
    common -= {"model.init_from", "model.norm_position"}  # the one is needed here, the other has other values
    assert sorted(mine - common) == sorted([*SAMPLES, *EXAMPLES, *ELSEWHERE])
