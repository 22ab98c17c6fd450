"""Runs that start with the weights of another: they need it at step 0 alone, and know its tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bert_shards import easy_bert_shards
from chat_runs import PAIRS, write_pairs
from ranks import run_pretrain, run_ranks
from text_shards import build_shards

from data_tools.tokenizer import byte_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from evals.config import evaluation_config
from pretrain.checkpoint import open_checkpoint, resolve
from pretrain.commands.check import check_command
from pretrain.commands.dry_run import dry_run_command
from pretrain.config.load import saved_kind
from pretrain.config.sections import TextConfig
from pretrain.errors import UserError
from pretrain.gpt.generate import layout_for
from pretrain.megatron.restore import open_saved_model
from pretrain.proofs.scratch import load_for_proof

WORKER = Path(__file__).with_name("init_from_worker.py")
TEXT = [f"a text of words that come again, number {number}, and again. " * 4 for number in range(30)]
KINDS = ("gpt", "bert", "gpt-chat", "bert-classifier", "bert-tagger")

pytestmark = pytest.mark.slow


def work(processes: int, **asked: Any) -> None:
    done = run_ranks(WORKER, processes, asked)
    assert done.returncode == 0, done.stderr


def write(folder: Path, name: str, model: dict[str, Any], data: dict[str, Any], **batch: Any) -> str:
    """A config of a small run in a folder; its path."""
    config = {
        "run": {"dir": str(folder / name), "steps": 2, "seed": 5},
        "model": model,
        "batch": {"global_size": 4, "micro_size": 2, **batch},
        "optimizer": {"lr": 1e-2},
        "schedule": {"kind": "constant"},
        "checkpoint": {"every": 1, "keep_last": 1},
        "tracking": {"enabled": False},
        "data": data,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


SMALL = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps of each kind, and one that was stopped after two; then what they started from is
    moved (the GPT) or deleted (the BERT, and the checkpoint of the GPT that the chats name)."""
    folder = tmp_path_factory.mktemp("runs")
    data = {"gpt": str(build_shards(folder / "shards", TEXT)), "bert": str(easy_bert_shards(folder / "easy"))}
    (folder / "words.tsv").write_text("text\tclass\n" + "abcd efgh\tyes\nbcde fghi\tno\n" * 4)
    (folder / "words.conll").write_text("abcd O\nefgh B-X\n\nbcde O\nfghi B-X\n\n" * 4)
    table = {"train": str(folder / "words.tsv"), "text": "text", "label": "class"}
    sources = {
        "gpt": {"train": data["gpt"]},
        "bert": {"train": data["bert"]},
        "gpt-chat": {"train": str(write_pairs(folder / "pairs.jsonl", PAIRS * 4)), "packing": False},
        "bert-classifier": table,
        "bert-tagger": {"train": str(folder / "words.conll")},
    }
    parents = [
        write(folder, f"parent-{kind}", {"kind": kind, **SMALL}, sources[kind], sequence_length=64)
        for kind in ("gpt", "bert")
    ]
    kept = "checkpoint.keep_last=2"
    plan: list[Any] = [[path, [kept]] for path in parents]
    for kind in KINDS:
        start = str(folder / f"parent-{kind.partition('-')[0]}")
        start += "/checkpoints/step-00000001" if kind == "gpt-chat" else ""
        path = write(folder, kind, {"kind": kind, "init_from": start}, sources[kind])
        plan += [[path, []], [path, ["run.steps=4", f"run.dir={folder / kind}-straight"]]]
    work(1, train=plan)
    (folder / "parent-gpt").rename(folder / "moved")
    shutil.rmtree(folder / "parent-bert")
    return folder


def overrides_for(runs: Path, kind: str) -> list[str]:
    """To go on: the GPT's config names the new place of its parent, the others the old one."""
    return ["run.steps=4", *([f"model.init_from={runs / 'moved'}"] if kind == "gpt" else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_dry_run_need_no_parent_of_a_run_that_goes_on(
    runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, overrides = str(runs / f"{kind}.yaml"), overrides_for(runs, kind)
    check_command(path, overrides, None, show=False, data=True)
    assert "no problem found" in capsys.readouterr().out
    done = run_pretrain("train", path, *overrides, "--dry-run")
    said = done.stdout
    assert "goes on with the run in it" in said and said.endswith("this would run\n"), done.stderr
    anew = [f"run.dir={runs / 'new'}", "run.steps=4"]
    with pytest.raises(UserError, match=rf"model\.init_from: '{runs}/parent-.*' holds no run"):
        check_command(path, anew, None, show=False, data=True)


def test_a_proof_starts_at_step_0_and_needs_the_parent(runs: Path) -> None:
    with pytest.raises(UserError, match=r"model\.init_from: .*/parent-bert: does not exist"):
        load_for_proof(str(runs / "bert.yaml"), [], None)


def test_another_run_is_no_new_place_of_the_parent(runs: Path) -> None:
    """Nor is none: the path may stay as it was."""
    for other in (runs / "gpt-straight", runs / "nowhere"):
        with pytest.raises(UserError, match=f"'{other}' is not known to be the run that .* began with"):
            dry_run_command(str(runs / "gpt.yaml"), [f"model.init_from={other}"], 1)


def test_what_was_saved_is_read_without_the_parent_or_what_took_its_place(runs: Path) -> None:
    """Also where the run itself was moved, so that its own config names no run either."""
    for kind in ("gpt", "bert"):
        other = yaml.safe_load((runs / kind / "config.resolved.yaml").read_text())
        other["model"] |= {"hidden_size": 48, "init_from": None}
        place = runs / f"parent-{kind}"
        place.mkdir()
        (place / "config.resolved.yaml").write_text(yaml.safe_dump(other))
    try:
        for kind in KINDS:
            run = (runs / f"{kind}-straight").rename(runs / "elsewhere")
            config = resolve(run) / "config.resolved.yaml"
            assert saved_kind(run) == kind
            assert open_saved_model(run, wanted=(TextConfig,)).config.model.hidden_size == 32
            assert evaluation_config(config, [], 1, data=["x"]).model.hidden_size == 32
            if kind.startswith("gpt"):
                assert layout_for(str(config), [], 1).ranks == 1
            run.rename(runs / f"{kind}-straight")
    finally:
        for kind in ("gpt", "bert"):
            shutil.rmtree(runs / f"parent-{kind}")


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_every_kind_goes_on_without_its_parent(runs: Path) -> None:
    """Step for step as the run that was not stopped; each save deletes the checkpoint before it."""
    work(1, train=[[str(runs / f"{kind}.yaml"), overrides_for(runs, kind)] for kind in KINDS])
    for kind in KINDS:
        straight = losses(runs / f"{kind}-straight")
        assert sorted(straight) == [1, 2, 3, 4] and len(set(straight.values())) == 4
        assert losses(runs / kind) == straight, kind
        saved = open_checkpoint(resolve(runs / kind))
        assert saved.step == 4
        before = open_checkpoint(resolve(runs / f"{kind}-straight"))
        for key in ("init_from", "init_from_run"):  # what later jobs know of it
            assert saved.state[key] == before.state[key] and saved.state[key]
        status = json.loads((runs / kind / "status.json").read_text())
        assert status["facts"]["init_from_run"] == saved.state["init_from_run"]
        tokenizers = [
            {name: each.file(name) for name in each.files if name.startswith("tokenizer/")}
            for each in (saved, before)
        ]
        assert tokenizers[0] == tokenizers[1] != {}


VOCABULARY = {"embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias"}
UNTIED = {"tie_embeddings": False}
LLAMA = {"position_embedding": "rotary", "normalization": "rmsnorm", "activation": "swiglu", "bias": False}
MODELS: dict[str, dict[str, Any]] = {
    "gpt": {"kind": "gpt", **SMALL, "vocab_multiple": 2},
    "llama": {"kind": "gpt", **SMALL, **LLAMA, **UNTIED, "vocab_multiple": 2},
    "bert": {"kind": "bert", **SMALL, "vocab_multiple": 2},
}
LAYOUTS = {
    "DP2": [],
    "TP2": ["parallel.tensor=2"],
    "PP2": ["parallel.pipeline=2"],
}


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per model: one of other data and another seed, one from scratch, and one with the weights of the first
    and the embedding of the second, on each layout."""
    folder = tmp_path_factory.mktemp("embeddings")
    few = train_tokenizer(TEXT, "char")
    assert few.vocab_size not in (byte_tokenizer().vocab_size, byte_tokenizer().vocab_size + 1)
    easy = easy_bert_shards(folder / "easy")
    shards = {"bytes": build_shards(folder / "bytes", TEXT), "few": build_shards(folder / "few", TEXT, few)}
    plan = {}
    for name, model in MODELS.items():
        there, here = (easy, easy) if name == "bert" else (shards["bytes"], shards["few"])
        if name == "bert":
            here = bert_shards_of_a_longer_vocabulary(folder / "longer")
        parent = write(folder, f"{name}-parent", model, {"train": str(there)}, sequence_length=32)
        scratch = write(folder, f"{name}-scratch", model, {"train": str(here)}, sequence_length=32)
        start = {
            "kind": model["kind"],
            "init_from": str(folder / f"{name}-parent"),
            "init_embeddings": "random",
        }
        warm = write(folder, f"{name}-warm", start, {"train": str(here)})
        plan[str(folder / f"{name}-parent")] = [parent, ["run.seed=9"]]
        plan[str(folder / f"{name}-scratch")] = [scratch, []]
        for layout, overrides in LAYOUTS.items():
            plan[str(folder / f"{name}-{layout}")] = [warm, overrides]
    work(2, save=plan)
    return folder


def bert_shards_of_a_longer_vocabulary(folder: Path) -> Path:
    from bert_shards import bert_tokenizer, build_bert_shards, prose

    return build_bert_shards(folder, prose()[:6], bert_tokenizer(400))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_only_what_has_a_row_for_each_token_is_drawn_anew(embeddings: Path, name: str, layout: str) -> None:
    parent, scratch, warm = (
        open_checkpoint(resolve(embeddings / f"{name}-{which}")) for which in ("parent", "scratch", layout)
    )
    keys = set(warm.keys("weights"))
    assert keys == set(parent.keys("weights")) == set(scratch.keys("weights"))
    new = {key for key in keys if torch.equal(*same_shape(warm.read(key), scratch.read(key)))}
    old = {key for key in keys if torch.equal(*same_shape(warm.read(key), parent.read(key)))}
    assert new | old == keys
    assert new - old == VOCABULARY & keys  # norms and biases are the same in both
    assert "decoder.layers.1.mlp.linear_fc1.weight" in {
        key.replace("encoder", "decoder") for key in old - new
    }
    assert ("output_layer.weight" in keys, "output_layer.bias" in keys) == (name == "llama", name == "bert")


def same_shape(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both, or two that differ where their shapes do."""
    return (first, second) if first.shape == second.shape else (torch.zeros(1), torch.ones(1))
