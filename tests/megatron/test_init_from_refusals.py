"""Runs that may not start with another's weights, or not go on: another tokenizer, none, another run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_runs import bert_run
from bert_shards import easy_bert_shards
from chat_runs import gpt_run, write_pairs
from text_shards import build_shards

from data_tools.train_tokenizer import train_tokenizer
from pretrain.commands.check import check_command
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder

TEXT = ["a text of words that come again and again. " * 9] * 3
WAY_OUT = "model.init_embeddings: random"


def config_of(folder: Path, kind: str, start: Path, data: dict[str, Any], **model: Any) -> str:
    tree = {
        "run": {"dir": str(folder / "run"), "steps": 2},
        "model": {"kind": kind, "init_from": str(start), **model},
        "batch": {"global_size": 2},
        "optimizer": {"lr": 1e-3},
        "data": data,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        check_command(path, [], None, show=False, data=True)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_shards_of_another_tokenizer_want_a_new_embedding(tmp_path: Path, kind: str) -> None:
    """Whether the weights came with a tokenizer or not; each message names the way out, which is one."""
    if kind == "gpt":
        data = build_shards(tmp_path / "shards", TEXT * 20, train_tokenizer(TEXT, "char"))
        start = gpt_run(tmp_path / "start")
        bare = gpt_run(tmp_path / "bare", bare=True)
    else:
        data = easy_bert_shards(tmp_path)
        start = bert_run(tmp_path / "start", TEXT)
        bare = bert_run(tmp_path / "bare", TEXT, bare=True)
    shards = {"train": str(data)}
    said = refusal(config_of(tmp_path, kind, start, shards))
    assert "was trained with tokenizer" in said and WAY_OUT in said
    said = refusal(config_of(tmp_path, kind, bare, shards))
    assert "holds no tokenizer (tokenizer.json of sha256 0123456789abcdef stayed behind when it was" in said
    assert WAY_OUT in said
    for run in (start, bare):
        path = config_of(tmp_path, kind, run, shards, init_embeddings="random")
        check_command(path, [], None, show=False, data=True)


@pytest.mark.parametrize("kind", ["gpt-chat", "bert-classifier", "bert-tagger"])
def test_a_fine_tuning_without_a_tokenizer_says_what_to_do_first(tmp_path: Path, kind: str) -> None:
    (tmp_path / "words.tsv").write_text("text\tclass\na\tyes\nb\tno\n")
    (tmp_path / "words.conll").write_text("a O\nb B-X\n")
    data = {
        "gpt-chat": {"train": str(write_pairs(tmp_path / "pairs.jsonl", [("a", "b")] * 2))},
        "bert-classifier": {"train": str(tmp_path / "words.tsv"), "text": "text", "label": "class"},
        "bert-tagger": {"train": str(tmp_path / "words.conll")},
    }[kind]
    place = tmp_path / "bare"
    bare = gpt_run(place, bare=True) if kind == "gpt-chat" else bert_run(place, TEXT, bare=True)
    said = refusal(config_of(tmp_path, kind, bare, data))
    assert f"{bare}/checkpoints/step-00000000: holds no tokenizer (tokenizer.json of sha256" in said
    assert "train it on shards of a tokenizer first" in said and WAY_OUT in said


def test_a_new_embedding_needs_old_weights(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = {
        "run": {"dir": "run", "steps": 2},
        "model": {"kind": "gpt", "num_layers": 1, "hidden_size": 8, "num_attention_heads": 1},
        "batch": {"global_size": 2, "sequence_length": 8},
        "optimizer": {"lr": 1e-3},
        "data": {"train": "x"},
    }
    config["model"] |= {"init_embeddings": "random"}  # type: ignore[operator]
    path.write_text(yaml.safe_dump(config))
    assert "model.init_embeddings: random has no effect without model.init_from" in refusal(str(path))


@pytest.fixture
def child(tmp_path: Path) -> RunFolder:
    """A run with a checkpoint that began with the run of id `parent`, then at `old`."""
    run = RunFolder(tmp_path / "child")
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    run.resolved.write_text(yaml.safe_dump({"model": {"kind": "gpt", "init_from": "old"}}))
    facts = {"init_from": "old/checkpoints/step-00000009", "init_from_run": "parent"}
    run.status.write_text(json.dumps({"run": "child", "facts": facts}))
    for name, value in (("moved", "parent"), ("other", "another")):
        (tmp_path / name / "checkpoints" / "step-00000009").mkdir(parents=True)
        (tmp_path / name / "status.json").write_text(json.dumps({"run": value}))
        state = tmp_path / name / "checkpoints" / "step-00000009" / "state.json"
        state.write_text(json.dumps({"run": value}))
    return run


def fit(run: RunFolder, source: object) -> dict[str, Any]:
    return run.require_fit(yaml.safe_dump({"model": {"kind": "gpt", "init_from": source}}), "auto")


@pytest.mark.parametrize("place", ["moved", "moved/checkpoints", "moved/checkpoints/step-00000009"])
def test_the_parent_may_be_moved(child: RunFolder, tmp_path: Path, place: str) -> None:
    assert fit(child, "old") == {}  # wherever it is
    assert fit(child, str(tmp_path / place)) == {"model.init_from": ("old", str(tmp_path / place))}


@pytest.mark.parametrize("place", ["other", "other/checkpoints/step-00000009", "nowhere", "a\0b", None])
def test_another_parent_is_refused(child: RunFolder, tmp_path: Path, place: str | None) -> None:
    source = place if place is None else str(tmp_path / place)
    with pytest.raises(UserError, match=r"is not known to be the run that .* began with \(old/checkpoints"):
        fit(child, source)


def test_a_run_that_does_not_know_its_parent_keeps_its_path(child: RunFolder, tmp_path: Path) -> None:
    child.status.write_text(json.dumps({"run": "child", "facts": {}}))
    assert fit(child, "old") == {}
    with pytest.raises(UserError, match=r"began with \(none\); set the path back"):
        fit(child, str(tmp_path / "moved"))


def test_before_its_first_checkpoint_a_run_may_start_from_another(child: RunFolder, tmp_path: Path) -> None:
    (child.checkpoints / "step-00000002").rmdir()
    other = str(tmp_path / "other")
    assert fit(child, other) == {"model.init_from": ("old", other)}
