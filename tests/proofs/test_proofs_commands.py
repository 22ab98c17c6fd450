"""`pretrain parity` and `pretrain verify-resume` on real ranks: green on what is right, red on what is not.

A fault gets into the ranks as `sitecustomize.py`, which every Python imports when it starts.
"""

import random
from pathlib import Path

import pytest
from text_shards import build_shards

from pretrain.errors import IntegrityError, UserError
from pretrain.proofs.parity import parity_command
from pretrain.proofs.resume import verify_resume_command

NORMS_NOT_REDUCED = """
import pretrain.megatron.layers.norm
pretrain.megatron.layers.norm._tag = lambda norm, config: None
"""
STEP_NOT_RESTORED = """
from pretrain.megatron.optimizer import Optimizer
Optimizer.updates = property(Optimizer.updates.fget, lambda self, value: None)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    letters = random.Random(1)
    build_shards(tmp_path / "shards", ["".join(letters.choices("abcdefgh ", k=300)) for _ in range(12)])
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
run: {{dir: {tmp_path}/own/run, steps: 1000}}
model: {{kind: gpt, num_layers: 6, hidden_size: 32, num_attention_heads: 4, dropout: 0.1}}
batch: {{global_size: 4, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
schedule: {{warmup_steps: 100}}
data: {{train: {tmp_path}/shards, validation_fraction: 0.1}}
checkpoint: {{every: 100, keep_every: 200, async: true}}
eval: {{every: 50}}
tracking: {{uri: "http://localhost:1"}}
"""
    )
    return str(path)


def with_fault(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "fault").mkdir()
    (folder / "fault" / "sitecustomize.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(folder / "fault"), prepend=":")


@pytest.mark.slow
def test_parity_names_the_layout_and_the_tensor(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_fault(tmp_path, NORMS_NOT_REDUCED, monkeypatch)
    with pytest.raises(IntegrityError) as raised:
        parity_command(config, "TP2,TP2+SP", 2, None, ["model.num_layers=4"])
    said = capfd.readouterr()
    table = [line.split() for line in said.out.splitlines()]
    assert ["TP2", "2", "same"] in [[*row[:2], row[-1]] for row in table if row]
    assert ["TP2+SP", "2", "DIFFERS"] in [[*row[:2], row[-1]] for row in table if row]
    assert "2 layers instead of 4, dropout 0 instead of 0.1; 2 steps; fp32" in said.out
    assert "TP2+SP: decoder.layers.0.input_layernorm.bias is the first whose gradient" in str(raised.value)
    (kept,) = (tmp_path / "own").iterdir()
    assert f"kept for a closer look: {kept}" in said.err


@pytest.mark.slow
def test_parity_of_the_own_layout(config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parity_command(config, None, 2, str(tmp_path / "out"), ["precision=bf16", "parallel.context=2"])
    said = capfd.readouterr().out
    table = [line.split() for line in said.splitlines()]
    assert [row[0] for row in table if row and row[-1] == "same"] == ["CP2", "TP2", "PP2", "DP2"]
    assert "trained as one process did: 2 steps within 0.002" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_verify_resume_is_green_and_leaves_nothing(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    verify_resume_command(config, None, 6, None, [])
    said = capfd.readouterr().out
    assert "killed -9 after step " in said
    assert "the newest good checkpoint is of step 6" in said
    assert "resume is exact: 12 steps on 1 process," in said
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.slow
def test_verify_resume_names_the_step_and_the_tensor(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with_fault(tmp_path, STEP_NOT_RESTORED, monkeypatch)
    with pytest.raises(IntegrityError) as raised:
        verify_resume_command(config, None, 6, None, [])
    (kept,) = (tmp_path / "own").iterdir()
    assert str(raised.value).startswith(f"resume is not exact: {kept} holds both runs")
    assert "first: step 8: loss 5." in str(raised.value)
    assert "first: embedding." in str(raised.value)
    assert f"kept for a closer look: {kept}" in capfd.readouterr().err


def test_refused_without_data_and_under_a_launcher(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="nowhere"):
        parity_command(config, None, 2, None, [f"data.train={tmp_path}/nowhere"])
    with pytest.raises(UserError, match="nowhere"):
        verify_resume_command(config, None, 2, None, [f"data.train={tmp_path}/nowhere"])
    with pytest.raises(UserError, match="3 processes are not a multiple"):
        verify_resume_command(config, 3, 2, None, ["parallel.tensor=2"])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="not under torchrun"):
        parity_command(config, None, 2, None, [])
    assert not (tmp_path / "own").exists()
