"""Recurrent language models: equal to a plain loop, on two ranks, after a resume; text in, scores out."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from config_files import REPOSITORY
from ranks import run_ranks
from text_shards import build_shards
from torch.nn import functional
from typer.testing import CliRunner

from pretrain.checkpoint import newest_good, open_checkpoint
from pretrain.checkpoint.checkpoint import Checkpoint
from pretrain.cli import app
from pretrain.config.load import load_config
from pretrain.config.node import ConfigError
from pretrain.config.sections import RnnModelConfig
from pretrain.errors import UserError
from pretrain.rnn.data import LaneData, StreamData
from pretrain.rnn.model import Rnn, build_rnn

WORKER = Path(__file__).with_name("rnn_worker.py")
STEPS = 6
RATES = (0.005, 0.01, 0.01, 0.01, 0.01, 0.01)
"""Of the schedule below: half of the peak in the first of two steps of warm-up."""
TEXTS = [f"{number} bottles of {'beer ' * (number % 7)}on the wall. " * 3 for number in range(60)]


def write(folder: Path, name: str, **changes: Any) -> str:
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / name), "steps": STEPS, "seed": 3},
        "model": {"kind": "rnn", "cell": "lstm", "num_layers": 2, "hidden_size": 16},
        "batch": {"global_size": 4, "micro_size": 1, "sequence_length": 16},
        "optimizer": {"lr": 1e-2, "beta2": 0.99},
        "schedule": {"kind": "constant", "warmup_steps": 2},
        "data": {"train": str(folder / "shards"), "validation_fraction": 0.2},
        "checkpoint": {"every": 3, "keep_last": 5},
        "tracking": {"enabled": False},
    }
    for key, value in changes.items():
        section, _, part = key.partition("__")
        if part:
            tree.setdefault(section, {})[part] = value
        else:
            tree[section] = value
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / f"{name}.yaml")


CHANGED: dict[str, dict[str, Any]] = {
    "usual": {},
    "rnn": {"model__cell": "rnn"},
    "gru": {"model__cell": "gru"},
    "layers": {"model__num_layers": 1},
    "hidden": {"model__hidden_size": 8},
    "untied": {"model__tie_embeddings": False},
    "dropout": {"model__dropout": 0.5},
    "micro": {"batch__micro_size": 2},
    "length": {"batch__sequence_length": 8},
    "streams": {"batch__global_size": 2},
    "bf16": {"precision": "bf16"},
    "fraction": {"data__validation_fraction": 0.4},
    "windows": {"eval__max_windows": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rnn")
    build_shards(folder / "shards", TEXTS)
    for name in ("one", "two", "resumed", "moved"):
        write(folder, name, model__dropout=0.0)
    for name in ("drop", "drop-resumed"):
        write(folder, name, model__dropout=0.3, model__cell="gru")
    trainers = {name: write(folder, f"seen-{name}", **changes) for name, changes in CHANGED.items()}
    half = ["run.steps=3"]
    runs: list[list[Any]] = [[str(folder / f"{name}.yaml"), []] for name in ("one", "drop")]
    for name in ("resumed", "drop-resumed"):
        runs += [[str(folder / f"{name}.yaml"), overrides] for overrides in (half, [])]
    runs.append([str(folder / "moved.yaml"), half])
    work = {"runs": runs, "trainers": trainers, "scores": [str(folder / "one")]}
    more = {
        "runs": [[str(folder / f"{name}.yaml"), []] for name in ("two", "moved")],
        "trainers": {"dropout": trainers["dropout"]},
    }
    for processes, argument in ((1, work), (2, {**more, "scores": [str(folder / "one")]})):
        done = run_ranks(WORKER, processes, {**argument, "output": str(folder / f"seen-{processes}.json")})
        assert done.returncode == 0, done.stderr
    return folder


def checkpoint(run: Path) -> Checkpoint:
    path, passed_over = newest_good(run)
    assert path is not None and not passed_over
    return open_checkpoint(path)


def journal(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


class Plain(torch.nn.Module):
    """The same model of torch's own LSTM."""

    def __init__(self, model: Rnn) -> None:
        super().__init__()
        vocabulary, size = model.embedding.shape
        self.embedding = torch.nn.Embedding(vocabulary, size)
        self.lstm = torch.nn.LSTM(size, size, 2, batch_first=True)
        with torch.no_grad():
            self.embedding.weight.copy_(model.embedding)
            for number, layer in enumerate(model.layers):
                for theirs, mine in zip(
                    ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), layer.parameters(), strict=True
                ):
                    getattr(self.lstm, f"{theirs}_l{number}").copy_(mine)

    def forward(self, tokens: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        hidden, state = self.lstm(self.embedding(tokens), state)
        return hidden @ self.embedding.weight.T, tuple(part.detach() for part in state)


def plain_loop(folder: Path) -> tuple[Plain, list[float], LaneData]:
    """The same training as anyone would write it: whole batches, one process, torch's LSTM and AdamW."""
    config: Any = load_config(str(folder / "one.yaml")).config
    data, lanes = StreamData.from_config(config), LaneData.from_config(config)
    assert lanes is not None
    model = Plain(build_rnn(config.model, data.vocab_size, config.run.seed))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-2, (0.9, 0.99), 1e-8)
    tokens = data.streams[0].source
    text = torch.from_numpy(tokens.reader.read(tokens.start, tokens.stop).astype("int64"))
    first = data.batch(0, 0, 0, 1).batch.tokens[0]
    offset = next(n for n in range(len(text)) if torch.equal(text[n : n + 16], first))
    rows = text[offset : offset + 4 * data.streams[0].steps * 16].view(4, -1)
    state, losses = None, []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        logits, state = model(rows[:, step * 16 : step * 16 + 16], state)
        labels = torch.stack([text[offset + row * rows.shape[1] + step * 16 + 1 :][:16] for row in range(4)])
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses, lanes


@pytest.mark.slow
def test_equal_to_a_plain_loop_and_on_two_ranks(folder: Path) -> None:
    model, losses, lanes = plain_loop(folder)
    for run in ("one", "two", "moved"):
        assert journal(folder / run, "loss") == pytest.approx(losses, rel=1e-5)
        saved = checkpoint(folder / run).read("embedding")
        torch.testing.assert_close(saved, model.embedding.weight.detach(), rtol=1e-4, atol=1e-5)
    # Every label of the held-out text, four lanes read side by side by torch's own module.
    [lane] = lanes.lanes
    text = torch.from_numpy(lane.source.reader.read(lane.source.start, lane.stop).astype("int64"))
    nll = 0.0
    with torch.no_grad():
        for piece in ((text[:-1].split(lane.steps * 16), text[1:].split(lane.steps * 16)),):
            for tokens, labels in zip(*piece, strict=True):
                logits, _ = model(tokens[None], None)
                nll += float(functional.cross_entropy(logits[0].double(), labels, reduction="sum"))
    assert lane.count == 4
    for run in ("one", "two"):
        assert journal(folder / run, "validation_loss") == [pytest.approx(nll / lanes.tokens, rel=1e-5)]
    scores = [
        json.loads((folder / f"seen-{size}.json").read_text())["scores"][str(folder / "one")]
        for size in (1, 2)
    ]
    assert scores[0]["token_perplexity"] == pytest.approx(math.exp(nll / lanes.tokens), rel=1e-5)
    assert scores[0]["tokens_scored"] == len(text) - 1
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_by_bit_with_the_carried_state(folder: Path) -> None:
    for name, resumed in (("one", "resumed"), ("drop", "drop-resumed")):
        one, other = checkpoint(folder / name), checkpoint(folder / resumed)
        assert one.keys() == other.keys()
        assert one.read("carried_state").abs().sum() > 0
        for key in one.keys():  # noqa: SIM118 - not a mapping
            assert torch.equal(one.read(key), other.read(key)), key
        assert journal(folder / name, "loss") == journal(folder / resumed, "loss")


@pytest.mark.slow
def test_another_number_of_ranks_takes_the_carried_state_over(folder: Path) -> None:
    one, moved = checkpoint(folder / "one"), checkpoint(folder / "moved")
    torch.testing.assert_close(moved.read("carried_state"), one.read("carried_state"), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_key_has_its_effect_and_no_other(folder: Path) -> None:
    seen = json.loads((folder / "seen-1.json").read_text())["seen"]
    usual = seen["usual"]
    for name in ("rnn", "gru", "layers", "hidden", "untied"):
        assert seen[name]["shapes"] != usual["shapes"], name
        assert seen[name]["tokens"] == usual["tokens"], name
    assert seen["dropout"]["shapes"] == usual["shapes"]
    assert seen["dropout"]["losses"] != usual["losses"]
    assert (usual["batch"], seen["micro"]["batch"]) == ([1, 16], [2, 16])
    assert seen["micro"]["losses"] == pytest.approx(usual["losses"], rel=1e-5)
    assert seen["length"]["batch"] == [1, 8]
    assert seen["streams"]["losses"] != usual["losses"]
    assert seen["bf16"]["losses"] != usual["losses"]
    assert seen["bf16"]["losses"] == pytest.approx(usual["losses"], rel=2e-2)
    assert seen["fraction"]["sequences"] < usual["sequences"]
    assert seen["windows"]["scored"] == 3 * 16 < usual["scored"]


@pytest.mark.slow
def test_dropout_is_another_for_every_rank_step_and_micro_batch_and_none_in_validation(folder: Path) -> None:
    for ranks in (1, 2):
        seen = json.loads((folder / f"seen-{ranks}.json").read_text())["seen"]["dropout"]
        calls = 3 * 4 // ranks  # of a step: before and after each of two layers, in each micro-batch
        assert seen["dropped"] == [2 * calls, 0, calls], "before, in and after validation"
        assert seen["validations"][0] == seen["validations"][1]
        masks = [tuple(mask) for mask in seen["masks"]]
        assert len(set(masks)) == len(masks) == 3 * calls * ranks
        assert sum(map(sum, masks)) / sum(map(len, masks)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_text_comes_of_a_checkpoint(folder: Path) -> None:
    """Greedy text is the argmax of the model read from the start, token after token."""
    saved = checkpoint(folder / "one")
    model = build_rnn(RnnModelConfig(kind="rnn", cell="lstm", num_layers=2, hidden_size=16), 257, 3)
    model.load_state_dict({key: saved.read(key) for key in saved.keys("weights")})
    ids = [256, *b"12 bot"]
    with torch.no_grad():
        for _ in range(8):
            logits, _ = model(torch.tensor([ids]), model.no_state(1))
            ids.append(int(logits[0, -1].argmax()))
    arguments = ["generate", str(folder / "one"), "--prompt", "12 bot", "--greedy", "--max-tokens", "8"]
    said = CliRunner().invoke(app, arguments, catch_exceptions=False)
    expected = bytes(ids[1 : ids.index(256, 1) if 256 in ids[1:] else None]).decode(errors="replace")
    assert said.stdout.rstrip("\n") == expected.rstrip("\n")


def data_for(folder: Path, name: str, **changes: Any) -> StreamData:
    config: Any = load_config(write(folder, name, **changes)).config
    return StreamData.from_config(config)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    build_shards(folder / "shards", TEXTS)
    build_shards(folder / "others", [text.upper() for text in TEXTS[:20]])
    return folder


def test_rows_go_on_where_they_were_and_begin_again_elsewhere(sources: Path) -> None:
    data = data_for(sources, "rows")
    steps = data.streams[0].steps
    for step in range(2 * steps):
        here, after = data.batch(step, 0, 0, 4), data.batch(step + 1, 0, 0, 4)
        goes_on = bool((here.batch.labels[:, -1] == after.batch.tokens[:, 0]).all())
        assert bool(here.fresh.all()) == (step % steps == 0)
        assert goes_on or (step + 1) % steps == 0
    starts = [data.batch(epoch * steps, 0, 0, 4).batch.tokens.tolist() for epoch in range(4)]
    assert any(start != starts[0] for start in starts)


def test_an_epoch_reads_every_token_once_whatever_the_ranks(sources: Path) -> None:
    data = data_for(sources, "epoch")
    [streams] = data.streams
    for size in (1, 2, 4):
        batches = [
            data.batch(step, micro, rank, size).batch.tokens
            for step in range(streams.steps)
            for micro in range(4 // size)
            for rank in range(size)
        ]
        found = torch.cat(batches).view(streams.steps, 4, 16).transpose(0, 1).flatten()
        source = streams.source
        text = torch.from_numpy(source.reader.read(source.start, source.stop).astype("int64"))
        offset = next(n for n in range(streams.spare + 1) if torch.equal(text[n : n + len(found)], found))
        assert 0 <= offset <= streams.spare < 4 * 16


def test_epochs_begin_at_every_token_that_is_left_over(sources: Path) -> None:
    """So the last token of a text is read too, in some epochs."""
    data = data_for(sources, "offsets")
    [streams] = data.streams
    source = streams.source
    text = source.reader.read(source.start, source.stop)
    starts = [text[n : n + 16].tolist() for n in range(streams.spare + 1)]
    firsts = [data.batch(n * streams.steps, 0, 0, 4).batch.tokens[0].tolist() for n in range(100)]
    assert streams.spare > 1
    assert {starts.index(first) for first in firsts} == set(range(streams.spare + 1))


def test_sources_share_the_rows_by_weight(sources: Path) -> None:
    both = [
        {"path": str(sources / "shards"), "weight": 3.0},
        {"path": str(sources / "others"), "weight": 1.0},
    ]
    data = data_for(sources, "shared", data__train=both)
    assert [streams.rows for streams in data.streams] == [3, 1]
    assert sorted(data.places) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    with pytest.raises(
        UserError, match=r"6 streams cannot be shared out by the weights 3\.0, 1\.0: .* 4 or 8"
    ):
        data_for(sources, "uneven", data__train=both, batch__global_size=6)


def test_too_many_streams_for_the_text_are_refused(sources: Path) -> None:
    with pytest.raises(UserError, match=r"tokens are fewer than 4096 streams .* at most \d+ streams fit"):
        data_for(sources, "many", batch__global_size=4096)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch__micro_size": 3},
            r"4 streams are not a multiple of micro_size x processes = 3 x 1 .*nearest",
        ),
        (
            {"model__cell": "gruu"},
            r"model\.cell: must be rnn or lstm or gru, got 'gruu' \(did you mean 'gru'",
        ),
        ({"model__num_attention_heads": 2}, r"has no effect here: it belongs to model\.kind gpt"),
        ({"parallel__tensor": 2}, r"'parallel' has no effect here: it belongs to model\.kind gpt"),
        ({"model__hiden_size": 2}, r"unknown key 'hiden_size' \(did you mean 'hidden_size'\?\)"),
        ({"data__reset_at_document_end": True}, r"has no effect here: it belongs to model\.kind gpt"),
    ],
)
def test_bad_configs_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, "bad", **changes), (), 1)


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_initial_weights_are_those_of_the_papers(cell: Any, gates: int) -> None:
    """Orthogonal; Glorot's uniform bound, the root of 6 / (64 + 64); 1 / 8; forget gates open."""
    model = build_rnn(RnnModelConfig(kind="rnn", cell=cell, num_layers=2, hidden_size=64), 300, 3)
    assert float(model.embedding.detach().std()) == pytest.approx(0.125, rel=0.03)
    for layer in model.layers:
        assert layer.hidden_weight.shape == layer.input_weight.shape == (64 * gates, 64)
        for gate in layer.hidden_weight.detach().split(64):
            torch.testing.assert_close(gate @ gate.T, torch.eye(64), rtol=0, atol=1e-5)
        bound = float(layer.input_weight.detach().abs().max())
        assert 0.99 * math.sqrt(6 / 128) < bound <= math.sqrt(6 / 128)
        opened = [0.0] * 64 + [1.0] * 64 + [0.0] * 128 if cell == "lstm" else [0.0] * 64 * gates
        assert layer.input_bias.tolist() == opened
        assert not layer.hidden_bias.any()
    assert not torch.equal(*(layer.input_weight for layer in model.layers))


def test_the_shipped_configs_are_legal_and_of_equal_size() -> None:
    sizes = []
    for path in sorted((REPOSITORY / "configs/rnn").glob("*.yaml")):
        config: Any = load_config(str(path), (), 2).config
        model = Rnn(config.model, 2048)
        sizes.append(sum(weight.numel() for weight in model.parameters()))
    assert len(sizes) == 3
    assert max(sizes) < 1.005 * min(sizes)
