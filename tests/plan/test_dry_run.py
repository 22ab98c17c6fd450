"""`pretrain train --dry-run` as a user calls it, for every kind of model."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml
from bert_runs import bert_run
from chat_runs import CONFIG as CHAT
from chat_runs import gpt_run, overrides_for, write_pairs
from config_files import REPOSITORY, write_config
from gan_configs import gan_tree
from image_shards import build_image_shards
from ranks import run_pretrain
from text_shards import build_shards

from data_tools.train_tokenizer import train_tokenizer
from pretrain.commands.dry_run import dry_run_command
from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.errors import IntegrityError, UserError
from pretrain.rnn.trainer import RnnTrainer

TEXT = ["some text that is long enough " * 50]


def dry_run(config: Path, *overrides: str, processes: int) -> subprocess.CompletedProcess[str]:
    return run_pretrain("train", config, *overrides, "--dry-run", "--processes", processes)


def test_a_dry_run_goes_through_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path / "config.yaml", run__dir=str(tmp_path / "run"), precision="bf16")
    layout = ["parallel.tensor=2", "parallel.pipeline=4", "parallel.sequence=true", "batch.global_size=32"]
    with pytest.raises(UserError, match=r"data\.train"):
        dry_run_command(path, layout, 64)
    with pytest.raises(UserError, match="60 processes are not a multiple"):
        dry_run_command(path, layout, 60)
    shards = build_shards(tmp_path / "shards", ["some text that is long enough " * 50])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir"):
        dry_run_command(path, [*layout, f"data.train={shards}", f"run.dir={tmp_path}/file/run"], 64)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds other files but no run \(thesis\.txt\)"):
        dry_run_command(path, [*layout, f"data.train={shards}", f"run.dir={tmp_path}/full"], 64)
    there = tmp_path / "there"
    (there / "checkpoints" / "step-00000004").mkdir(parents=True)
    narrow = load_config(path, [f"data.train={shards}", f"run.dir={there}", "model.hidden_size=32"]).config
    (there / "config.resolved.yaml").write_text(config_to_yaml(narrow))
    with pytest.raises(
        UserError, match=r"(?s)holds another run; .* model\.hidden_size: 32 in the run, 64 now"
    ):
        dry_run_command(path, [*layout, f"data.train={shards}", f"run.dir={there}"], 64)
    capsys.readouterr()
    dry_run_command(path, [*layout, f"data.train={shards}"], 64)
    said = capsys.readouterr().out
    assert "built for 4 of 64 ranks" in said and said.count("schedule: ") == 3
    assert said.endswith("this would run\n") and not (tmp_path / "run").exists()


def rnn(folder: Path) -> list[str]:
    shards = build_shards(folder / "shards", TEXT)
    return [
        str(REPOSITORY / "configs" / "rnn" / "lstm.yaml"),
        f"data.train={shards}",
        "batch.sequence_length=8",
    ]


def cnn(folder: Path) -> list[str]:
    shards = build_image_shards(folder / "shards", 40)
    return [
        str(REPOSITORY / "configs" / "cnn" / "digits.yaml"),
        f"data.train={shards}",
        "data.validation=null",
        "eval.every=null",
    ]


def gan(folder: Path) -> list[str]:
    shards = build_image_shards(folder / "shards", 40, size=16)
    tree = gan_tree(data__train=shards, model__spectral_norm=True, parallel__discriminator_stage=3)
    (folder / "gan.yaml").write_text(yaml.safe_dump(tree))
    return [str(folder / "gan.yaml"), "parallel.generator_stage=2", "precision=bf16"]


@pytest.mark.parametrize(
    ("make", "layout"),
    [(rnn, "DP64"), (cnn, "DP64"), (gan, "DP64, ZeRO 2 (G) and 3 (D)")],
)
def test_a_model_that_every_rank_holds_takes_a_step(
    tmp_path: Path, make: Callable[[Path], list[str]], layout: str
) -> None:
    config, *overrides = make(tmp_path)
    run = tmp_path / "run"
    overrides += [f"run.dir={run}", "batch.micro_size=1", "batch.global_size=64"]
    done = dry_run(Path(config), *overrides, processes=64)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert f"model: built for {layout}" in done.stdout
    assert said[0] == "config: no problem found for 64 processes" and said[1].startswith("data: opened, ")
    assert said[-2].startswith("step: ") and said[-1] == "this would run"
    assert not run.exists()


def test_a_few_rows_need_not_be_what_the_weights_of_sources_want(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, train, *overrides = rnn(tmp_path)
    other = build_shards(tmp_path / "other", TEXT)
    both = f"data.train=[{{path: {train.split('=')[1]}, weight: 3}}, {{path: {other}, weight: 1}}]"
    dry_run_command(path, [both, *overrides, f"run.dir={tmp_path / 'run'}"], 1)
    assert capsys.readouterr().out.endswith("with 2 samples of its own\nthis would run\n")


def test_the_run_that_this_one_starts_from_is_opened(tmp_path: Path) -> None:
    """And not only its config, from which this one takes its model."""
    texts = [f"{number}: {TEXT[0]}" for number in range(60)]
    shards = build_shards(tmp_path / "shards", texts)
    path, start = write_config(tmp_path / "config.yaml"), gpt_run(tmp_path / "start")
    overrides = [f"run.dir={tmp_path / 'run'}", f"model.init_from={start}"]
    overrides += ["model.num_layers=2", "model.hidden_size=32", "model.num_attention_heads=2"]
    overrides += ["batch.sequence_length=96"]
    dry_run_command(path, [*overrides, f"data.train={shards}"], 1)
    letters = build_shards(tmp_path / "letters", texts, train_tokenizer(texts, "char"))
    with pytest.raises(
        UserError,
        match=r"line: model\.init_from: .* was trained with tokenizer .* build the shards with .*/tokenizer",
    ):
        dry_run_command(path, [*overrides, f"data.train={letters}"], 1)
    weights = next(start.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=r"command line: model\.init_from: .*no checkpoint is good"):
        dry_run_command(path, [*overrides, f"data.train={shards}"], 1)


def test_the_step_is_taken(tmp_path: Path) -> None:
    path, *overrides = rnn(tmp_path)
    with (
        mock.patch.object(RnnTrainer, "losses", side_effect=RuntimeError("in the step")),
        pytest.raises(RuntimeError, match="in the step"),
    ):
        dry_run_command(path, [*overrides, f"run.dir={tmp_path / 'run'}"], 1)


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_a_bert_that_is_fine_tuned(tmp_path: Path, kind: str) -> None:
    data = tmp_path / ("data.conll" if kind == "tagging" else "data.tsv")
    data.write_text(
        "good O\nfilm B-X\n\nbad O\n\n" if kind == "tagging" else "sentence\tlabel\ngood\t1\nbad\t0\n"
    )
    done = dry_run(
        REPOSITORY / "configs" / "bert" / f"finetune-{kind}.yaml",
        f"model.init_from={bert_run(tmp_path / 'bert', ['good and bad films'])}",
        f"data.train={data}",
        "data.validation=null",
        "eval.every=null",
        f"run.dir={tmp_path / 'run'}",
        "parallel.tensor=2",
        "parallel.pipeline=2",
        "batch.micro_size=2",
        "batch.global_size=32",
        processes=64,
    )
    assert done.returncode == 0, done.stderr
    assert "data: opened, 2 examples of 2 classes" in done.stdout
    assert "built for 2 of 64 ranks" in done.stdout and done.stdout.endswith("this would run\n")


def test_a_chat(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", [("red?", "fire"), ("blue?", "the sea")])
    asked = overrides_for(gpt_run(tmp_path / "gpt"), pairs, tmp_path / "run", "parallel.pipeline=2")
    asked = [text for text in asked if not text.startswith("batch.")]
    done = dry_run(CHAT, *asked, "batch.micro_size=1", "batch.global_size=32", processes=64)
    assert done.returncode == 0, done.stderr
    assert "built for 2 of 64 ranks" in done.stdout and done.stdout.endswith("this would run\n")
