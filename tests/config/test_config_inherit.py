"""A fine-tuning config takes the model of the run it starts from, and nothing else in its place."""

from pathlib import Path
from typing import Any

import pytest
from config_files import ALL_SHIPPED, REPOSITORY, SHIPPED

from pretrain.config.load import load_config, read_config
from pretrain.config.node import ConfigError
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import ChatConfig, FinetuneConfig, TextConfig

EVERY = [path for path in ALL_SHIPPED if path not in SHIPPED]
FINETUNE = [path for path in EVERY if path.parent.name == "bert"]
CHAT = REPOSITORY / "configs" / "gpt" / "finetune-chat.yaml"
TINY = str(REPOSITORY / "configs" / "bert" / "tiny.yaml")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "run")


def a_run(folder: Path, *overrides: str, tiny: str = TINY) -> Path:
    folder.mkdir()
    (folder / "config.resolved.yaml").write_text(config_to_yaml(read_config(tiny, overrides).config))
    return folder


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_a_shipped_config_is_legal_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", tiny=str(path.with_name("tiny.yaml")))
    loaded = load_config(str(path), [f"model.init_from={run}"])
    assert isinstance(loaded.config, FinetuneConfig | ChatConfig)
    assert loaded.config.model.hidden_size == 32
    assert loaded.config.batch.sequence_length == 32
    assert loaded.config.model.dropout == (0.0 if path == CHAT else 0.1)
    assert str(loaded.sources["model.hidden_size"]).startswith(str(run / "config.resolved.yaml"))
    whole = tmp_path / "whole.yaml"
    whole.write_text(config_to_yaml(loaded.config))
    assert read_config(str(whole)).config == loaded.config
    (run / "config.resolved.yaml").unlink()
    assert read_config(str(whole)).config == loaded.config  # as a checkpoint keeps it


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    return str(caught.value)


def test_a_model_that_differs_is_refused(run: Path) -> None:
    said = problem(FINETUNE[0], f"model.init_from={run}", "model.hidden_size=64")
    assert f"model.hidden_size: 64 is not that of {run}: 32; leave it out" in said
    said = problem(FINETUNE[0], f"model.init_from={run}", "model.activation=gelu_tanh")
    assert "model.activation: 'gelu_tanh' is not that of" in said


def test_learned_positions_fix_the_sequence_length_and_rotary_ones_do_not(run: Path, tmp_path: Path) -> None:
    said = problem(FINETUNE[0], f"model.init_from={run}", "batch.sequence_length=16")
    assert "batch.sequence_length: 16 is not that of" in said
    assert "a vector for each position" in said
    rotary = a_run(tmp_path / "rotary", "model.position_embedding=rotary")
    config = load_config(str(FINETUNE[0]), [f"model.init_from={rotary}", "batch.sequence_length=16"]).config
    assert isinstance(config, FinetuneConfig)
    assert config.batch.sequence_length == 16


def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    assert f"model.init_from: '{tmp_path}' holds no run" in problem(
        FINETUNE[0], f"model.init_from={tmp_path}"
    )
    gpt = tmp_path / "gpt"
    gpt.mkdir()
    config = read_config(str(REPOSITORY / "configs" / "gpt" / "tiny.yaml")).config
    (gpt / "config.resolved.yaml").write_text(config_to_yaml(config))
    assert "is no run of a BERT: model.kind is 'gpt'" in problem(FINETUNE[0], f"model.init_from={gpt}")


def test_a_chat_may_start_from_a_gpt_or_from_another_chat(tmp_path: Path, run: Path) -> None:
    gpt = a_run(tmp_path / "gpt", tiny=str(CHAT.with_name("tiny.yaml")))
    chat = tmp_path / "chat"
    chat.mkdir()
    first = load_config(str(CHAT), [f"model.init_from={gpt}"]).config
    (chat / "config.resolved.yaml").write_text(config_to_yaml(first))
    second = load_config(str(CHAT), [f"model.init_from={chat}"]).config
    assert isinstance(second, ChatConfig)
    assert second.model.hidden_size == 32
    assert "is no run of a GPT: model.kind is 'bert'" in problem(CHAT, f"model.init_from={run}")


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_with_checkpoints_takes_its_model_from_itself(run: Path, tmp_path: Path, saved: bool) -> None:
    """The run that it started from was replaced by another, which counts before the first checkpoint only."""
    own = tmp_path / "own"
    (own / "checkpoints").mkdir(parents=True)
    overrides = [f"model.init_from={run}", f"run.dir={own}"]
    first = load_config(str(FINETUNE[0]), overrides).config
    (own / "config.resolved.yaml").write_text(config_to_yaml(first))
    other = config_to_yaml(read_config(TINY, ["model.hidden_size=48"]).config)
    (run / "config.resolved.yaml").write_text(other)
    if saved:
        (own / "checkpoints" / "step-00000001").mkdir()
    config = load_config(str(FINETUNE[0]), overrides).config
    assert isinstance(config, FinetuneConfig)
    assert config.model.hidden_size == (32 if saved else 48)
    if saved:
        assert config == first
        said = problem(FINETUNE[0], *overrides, "model.hidden_size=48")
        assert f"model.hidden_size: 48 is not that of {own}: 32; leave it out" in said
        (run / "config.resolved.yaml").unlink()
        assert load_config(str(FINETUNE[0]), overrides).config == first
    # A run of another kind in its place is none to go on with.
    (own / "config.resolved.yaml").write_text(other)
    (run / "config.resolved.yaml").write_text(other)
    config = load_config(str(FINETUNE[0]), overrides).config
    assert isinstance(config, FinetuneConfig)
    assert config.model.hidden_size == 48


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_an_embedding_that_was_learnt_anew_is_not_learnt_anew_again(tmp_path: Path, kind: str) -> None:
    shipped = str(REPOSITORY / "configs" / kind / "tiny.yaml")
    first = a_run(tmp_path / "first", tiny=shipped)
    anew = [f"model.init_from={first}", "model.init_embeddings=random"]
    second = a_run(tmp_path / "second", *anew, tiny=shipped)
    config: Any = load_config(shipped, [f"model.init_from={second}"]).config
    assert config.model.init_embeddings == "pretrained"
    finetuning = CHAT if kind == "gpt" else FINETUNE[0]
    assert load_config(str(finetuning), [f"model.init_from={second}"]).config.model.kind != kind


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_pretraining_may_start_from_a_run_of_its_kind(tmp_path: Path, kind: str) -> None:
    shipped = REPOSITORY / "configs" / kind / "tiny.yaml"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.yaml").write_text(
        config_to_yaml(read_config(str(shipped), ["model.ffn_hidden_size=48"]).config)
    )
    config = load_config(str(shipped), [f"model.init_from={run}"]).config
    assert isinstance(config, TextConfig)
    assert config.model.ffn_hidden_size == 48
    said = problem(shipped, f"model.init_from={run}", "model.ffn_hidden_size=64")
    assert f"model.ffn_hidden_size: 64 is not that of {run}: 48; leave it out" in said
    other = REPOSITORY / "configs" / ("bert" if kind == "gpt" else "gpt") / "tiny.yaml"
    assert f"is no run of a {'BERT' if kind == 'gpt' else 'GPT'}" in problem(other, f"model.init_from={run}")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("parallel.context=2", "parallel.context: 2 has no place in fine-tuning"),
        ("data.validation=data/classification/train.tsv", "is also data.train"),
        ("data.validation=null", "eval.every: has no effect without data.validation"),
        ("data.labels=[yes]", "data.labels"),
        ("data.lable=x", "unknown key 'lable' (did you mean 'label'?)"),
        ("data.nsp=false", "'nsp' has no effect here: it belongs to model.kind bert"),
    ],
)
def test_what_cannot_be_is_refused(run: Path, override: str, said: str) -> None:
    assert said in problem(FINETUNE[0], f"model.init_from={run}", override)
