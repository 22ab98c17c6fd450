"""What is rehearsed: a run of each kind from the command line, and ranks of each layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from bert_runs import bert_run
from bert_shards import easy_bert_shards
from chat_runs import gpt_run, write_pairs
from gan_configs import gan_tree
from image_shards import build_image_shards
from text_shards import build_shards

TEXTS = ["".join(chr(97 + (i * i + 3 * i + salt) % 26) for i in range(300)) for salt in range(12)]
TEXT_MODEL = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4}
BATCH = {"global_size": 2, "micro_size": 1, "sequence_length": 32}
PAIRS = [("red?", "fire"), ("blue?", "the sea"), ("green?", "grass"), ("white?", "snow, or milk")]
SENTENCES = "sentence\tlabel\n" + "good film\t1\nbad\t0\n" * 8
WORDS = "good O\nfilm B-X\n\nbad O\n\n" * 4


@dataclass(frozen=True)
class Family:
    """A kind of model, its small config, and what is asked of a run of it."""

    name: str
    tree: dict[str, Any]
    prepare: Callable[[Path], dict[str, str]]
    """Builds the data in a folder, once; returns the keys that name it."""
    after: Callable[[str], list[list[str]]]
    """Commands for a run."""

    def write(self, folder: Path) -> None:
        """Everything that the worker reads."""
        own = folder / self.name
        own.mkdir()
        keys = self.prepare(own)
        (own / "config.yaml").write_text(yaml.safe_dump(self.tree))
        (own / "keys").write_text("\n".join(f"{key}={value}" for key, value in keys.items()))

    def config(self, folder: Path) -> Path:
        return folder / self.name / "config.yaml"

    def overrides(self, folder: Path) -> list[str]:
        return (folder / self.name / "keys").read_text().splitlines()

    def commands(self, run: Path) -> list[list[str]]:
        return self.after(str(run))


@dataclass(frozen=True)
class Case:
    """One rank of a layout."""

    name: str
    family: str
    size: int = 1
    rank: int = 0
    overrides: tuple[str, ...] = ()
    loads: bool = True
    """Whether it loads the checkpoint of the run from the command line, which has one layout."""


def _tree(kind: str, precision: str = "fp32", **sections: dict[str, Any]) -> dict[str, Any]:
    common: dict[str, Any] = {
        "precision": precision,
        "run": {"dir": "run", "steps": 4, "seed": 7},
        "model": {"kind": kind},
        "optimizer": {"lr": 1e-3},
        "schedule": {"kind": "constant"},
        "data": {"train": "set later"},
    }
    for name, section in sections.items():
        common[name] = common.get(name, {}) | section
    return common


def _gpt(own: Path) -> dict[str, str]:
    return {"data.train": str(build_shards(own / "shards", TEXTS)), "data.validation_fraction": "0.1"}


def _bert(own: Path) -> dict[str, str]:
    return {
        "data.train": str(easy_bert_shards(own)),
        "data.validation_fraction": "0.1",
        "eval.max_windows": "4",
    }


def _chat(own: Path) -> dict[str, str]:
    pairs = str(write_pairs(own / "pairs.jsonl", PAIRS))
    start, other = str(gpt_run(own / "gpt")), str(write_pairs(own / "others.jsonl", PAIRS[:2]))
    return {"model.init_from": start, "data.train": pairs, "data.validation": other}


def _labelled(name: str, text: str) -> Callable[[Path], dict[str, str]]:
    def prepare(own: Path) -> dict[str, str]:
        start = str(bert_run(own / "bert", ["good film and bad"]))
        for part in ("train", "validation"):
            (own / f"{part}-{name}").write_text(text)
        files = {f"data.{part}": str(own / f"{part}-{name}") for part in ("train", "validation")}
        return {"model.init_from": start, **files}

    return prepare


def _images(own: Path) -> dict[str, str]:
    return {"data.train": build_image_shards(own / "images", 40, size=16)}


def _classified(own: Path) -> dict[str, str]:
    return {**_images(own), "data.validation": build_image_shards(own / "others", 8, size=16, seed=1)}


def _say(*more: str) -> Callable[[str], list[list[str]]]:
    return lambda run: [["eval", run], ["generate", run, "--prompt", "ab", "--max-tokens", "2", *more]]


def _score(run: str) -> list[list[str]]:
    return [["eval", run]]


FAMILIES = {
    family.name: family
    for family in (
        Family("gpt", _tree("gpt", model=TEXT_MODEL, batch=BATCH, precision="bf16"), _gpt, _say()),
        Family("bert", _tree("bert", model=TEXT_MODEL, batch=BATCH, precision="bf16"), _bert, _score),
        Family("chat", _tree("gpt-chat", batch={"global_size": 4, "micro_size": 1}), _chat, _say()),
        Family(
            "classifier",
            _tree(
                "bert-classifier",
                batch={"global_size": 4, "micro_size": 2},
                data={"text": "sentence", "label": "label"},
            ),
            _labelled("films.tsv", SENTENCES),
            _score,
        ),
        Family(
            "tagger",
            _tree("bert-tagger", batch={"global_size": 4, "micro_size": 2}),
            _labelled("words.conll", WORDS),
            _score,
        ),
        Family(
            "rnn",
            _tree(
                "rnn",
                model={"cell": "lstm", "hidden_size": 32, "num_layers": 2, "dropout": 0.1},
                batch={**BATCH, "sequence_length": 8},
            ),
            _gpt,
            _say(),
        ),
        Family(
            "cnn",
            _tree("cnn", model={"width": 8, "stages": 2, "features": 8}, batch={"global_size": 4}),
            _classified,
            _score,
        ),
        Family(
            "gan",
            gan_tree(loss__gradient_penalty=1.0, loss__penalty_every=2),
            _images,
            lambda run: [["generate", run, "--count", "2", "--output", f"{run}/drawn"]],
        ),
    )
}

_TP, _PP = ("parallel.tensor=2",), ("parallel.pipeline=2",)
_SP, _VPP = (*_TP, "parallel.sequence=true"), (*_PP, "parallel.virtual_pipeline=2")
_CP, _SHARDED = ("parallel.context=2",), ("parallel.distributed_optimizer=true",)
_OVERLAP = ("parallel.overlap_grad_reduce=true",)
_LLAMA = (
    "model.activation=swiglu",
    "model.normalization=rmsnorm",
    "model.position_embedding=rotary",
    "model.bias=false",
    "model.tie_embeddings=false",
)
_FULL = ("parallel.recompute=full", "model.dropout=0.1")


def _zero(generator: int, discriminator: int, *more: str, size: int = 2) -> Case:
    stages = f"parallel.generator_stage={generator}", f"parallel.discriminator_stage={discriminator}"
    name = " ".join(["gan", f"ZeRO {generator}/{discriminator}", *more])
    return Case(name, "gan", size, 0, (*stages, *more), loads=False)


CASES = (
    Case("gpt fp32", "gpt", overrides=("precision=fp32",), loads=False),
    Case("gpt documents", "gpt", overrides=("data.reset_at_document_end=true",), loads=False),
    Case("gpt TP2 SP full recompute dropout", "gpt", 2, 0, (*_SP, *_FULL)),
    Case("gpt selective recompute", "gpt", overrides=("parallel.recompute=selective",)),
    Case("gpt PP2 first", "gpt", 2, 0, _PP),
    Case("gpt PP2 last", "gpt", 2, 1, _PP),
    Case("gpt PP2 VPP2 first", "gpt", 2, 0, _VPP),
    Case("gpt PP2 VPP2 last", "gpt", 2, 1, _VPP),
    Case("gpt CP2 documents", "gpt", 2, 1, (*_CP, "data.reset_at_document_end=true"), loads=False),
    Case("gpt DP2 sharded overlap", "gpt", 2, 1, (*_SHARDED, *_OVERLAP)),
    Case("gpt everything", "gpt", 16, 15, (*_SP, *_VPP, *_CP, *_SHARDED, *_OVERLAP, "batch.global_size=4")),
    Case("gpt llama TP2 PP2 last", "gpt", 4, 2, (*_LLAMA, *_TP, *_PP), loads=False),
    Case("bert TP2 SP", "bert", 2, 0, _SP),
    Case("bert PP2 first", "bert", 2, 0, _PP),
    Case("bert PP2 last", "bert", 2, 1, _PP),
    Case("bert PP2 VPP2 last", "bert", 2, 1, _VPP),
    Case("bert CP2", "bert", 2, 1, _CP),
    Case("bert post-norm DP2 sharded", "bert", 2, 0, (*_SHARDED, "model.norm_position=post"), loads=False),
    Case("chat TP2 PP2 last", "chat", 4, 2, (*_TP, *_PP)),
    Case("classifier TP2 PP2 last", "classifier", 4, 2, (*_TP, *_PP)),
    Case("tagger PP2 first", "tagger", 2, 0, _PP),
    Case("rnn DP2", "rnn", 2, 1),
    Case("rnn bf16", "rnn", overrides=("precision=bf16",), loads=False),
    Case("cnn DP2", "cnn", 2, 1),
    Case("cnn bf16", "cnn", overrides=("precision=bf16",), loads=False),
    _zero(0, 0, "loss.gradient_penalty=10", size=1),
    _zero(1, 1, "precision=bf16"),
    _zero(2, 2, "loss.r1=1"),
    _zero(2, 2, "parallel.offload_optimizer=true"),
    _zero(3, 2, "loss.r1=1"),
    _zero(3, 3, "model.spectral_norm=true", "loss.gradient_penalty=0", "loss.penalty_every=null"),
)
