"""`pretrain train --dry-run` for every kind of model, all in a process that has run nothing on its CPU."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml
from bert_runs import bert_run
from chat_runs import CONFIG as CHAT
from chat_runs import gpt_run, overrides_for, write_pairs
from config_files import REPOSITORY, write_config
from gan_configs import gan_tree
from image_shards import build_image_shards
from text_shards import build_shards

from data_tools.train_tokenizer import train_tokenizer
from pretrain.commands.dry_run import dry_run_command
from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.errors import IntegrityError, UserError

Case: TypeAlias = tuple[str, int, list[str]]
"""Config, processes and overrides."""

TEXT = "some text that is long enough " * 50
LAYOUT = ["parallel.tensor=2", "parallel.pipeline=4", "parallel.sequence=true", "batch.global_size=32"]


def rnn(folder: Path, *more: str) -> Case:
    shards = build_shards(folder / "rnn", [TEXT])
    overrides = [f"data.train={shards}", "batch.sequence_length=8", *more]
    return str(REPOSITORY / "configs" / "rnn" / "lstm.yaml"), 1, overrides


def cnn(folder: Path) -> Case:
    shards = build_image_shards(folder / "digits", 40)
    overrides = [f"data.train={shards}", "data.validation=null", "eval.every=null"]
    return str(REPOSITORY / "configs" / "cnn" / "digits.yaml"), 1, overrides


def gan(folder: Path) -> Case:
    shards = build_image_shards(folder / "images", 40, size=16)
    tree = gan_tree(data__train=shards, model__spectral_norm=True, parallel__discriminator_stage=3)
    (folder / "gan.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / "gan.yaml"), 1, ["parallel.generator_stage=2", "precision=bf16"]


def finetuning(folder: Path, kind: str) -> Case:
    data = folder / ("data.conll" if kind == "tagging" else "data.tsv")
    data.write_text(
        "good O\nfilm B-X\n\nbad O\n\n" if kind == "tagging" else "sentence\tlabel\ngood\t1\nbad\t0\n"
    )
    overrides = [
        f"model.init_from={bert_run(folder / f'bert-{kind}', ['good and bad films'])}",
        f"data.train={data}",
        "data.validation=null",
        "eval.every=null",
        "parallel.tensor=2",
        "parallel.pipeline=2",
        "batch.micro_size=2",
        "batch.global_size=32",
    ]
    return str(REPOSITORY / "configs" / "bert" / f"finetune-{kind}.yaml"), 64, overrides


def chat(folder: Path) -> Case:
    pairs = write_pairs(folder / "pairs.jsonl", [("red?", "fire"), ("blue?", "the sea")])
    asked = overrides_for(gpt_run(folder / "gpt"), pairs, folder / "run", "parallel.pipeline=2")
    asked = [text for text in asked if not text.startswith(("batch.", "run.dir"))]
    return str(CHAT), 64, [*asked, "batch.micro_size=1", "batch.global_size=32"]


def cases(folder: Path) -> Mapping[str, Case]:
    """Jobs that would run, except for "fails"."""
    gpt = write_config(folder / "config.yaml", precision="bf16")
    shards = build_shards(folder / "shards", [TEXT])
    whole = ["batch.micro_size=1", "batch.global_size=64"]
    lstm, one, own = rnn(folder)
    other = build_shards(folder / "other", [TEXT])
    two = f"data.train=[{{path: {folder / 'rnn'}, weight: 3}}, {{path: {other}, weight: 1}}]"
    digits, networks = cnn(folder), gan(folder)
    return {
        "gpt": (gpt, 64, [*LAYOUT, f"data.train={shards}"]),
        "rnn": (lstm, 64, [*own, *whole]),
        "cnn": (digits[0], 64, [*digits[2], *whole]),
        "gan": (networks[0], 64, [*networks[2], *whole]),
        "sources": (lstm, one, [*own[1:], two]),  # the first names the data
        "fails": (lstm, one, own),
        "classification": finetuning(folder, "classification"),
        "tagging": finetuning(folder, "tagging"),
        "chat": chat(folder),
    }


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, str]]:
    """For each case, what was said and the error."""
    folder = tmp_path_factory.mktemp("dry")
    given = {
        name: (config, processes, [*overrides, f"run.dir={folder / 'run'}"])
        for name, (config, processes, overrides) in cases(folder).items()
    }
    command = [sys.executable, str(Path(__file__).with_name("dry_run_worker.py")), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (folder / "run").exists()
    found: dict[str, tuple[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("name", "opened", "built", "steps"),
    [
        ("gpt", "ids", "TP2 x PP4 x DP8 + SP, built for the last of 64 ranks", 2),
        ("rnn", "", "DP64, built for the last of 64 ranks", 1),
        ("cnn", "", "DP64, built for the last of 64 ranks", 1),
        ("gan", "", "DP64, ZeRO 2 (G) and 3 (D), built for the last of 64 ranks", 1),
        # Few rows need not be what the weights of the sources ask for.
        ("sources", "", "one process, built for the last of 1 rank", 1),
        ("classification", "2 examples of 2 classes", "built for the last of 64 ranks", 2),
        ("tagging", "2 examples of 2 classes", "built for the last of 64 ranks", 2),
        ("chat", "", "built for the last of 64 ranks", 2),
    ],
)
def test_a_job_is_rehearsed(
    said: Mapping[str, tuple[str, str]], name: str, opened: str, built: str, steps: int
) -> None:
    text, error = said[name]
    assert not error and text.startswith("config: no problem found for ")
    assert "\ndata: opened, " in text and opened in text
    assert built in text and text.count("\nstep: ") == steps and text.endswith("\nthis would run\n")


def test_the_step_is_taken(said: Mapping[str, tuple[str, str]]) -> None:
    assert said["fails"][1] == "RuntimeError: in the step"


def test_what_would_stop_the_job_is_said(tmp_path: Path) -> None:
    path = write_config(tmp_path / "config.yaml", run__dir=str(tmp_path / "run"), precision="bf16")
    with pytest.raises(UserError, match=r"data\.train"):
        dry_run_command(path, LAYOUT, 64)
    with pytest.raises(UserError, match="60 processes are not a multiple"):
        dry_run_command(path, LAYOUT, 60)
    shards = build_shards(tmp_path / "shards", [TEXT])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir"):
        dry_run_command(path, [*LAYOUT, f"data.train={shards}", f"run.dir={tmp_path}/file/run"], 64)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds other files but no run \(thesis\.txt\)"):
        dry_run_command(path, [*LAYOUT, f"data.train={shards}", f"run.dir={tmp_path}/full"], 64)
    there = tmp_path / "there"
    (there / "checkpoints" / "step-00000004").mkdir(parents=True)
    narrow = load_config(path, [f"data.train={shards}", f"run.dir={there}", "model.hidden_size=32"]).config
    (there / "config.resolved.yaml").write_text(config_to_yaml(narrow))
    with pytest.raises(
        UserError, match=r"(?s)holds another run; .* model\.hidden_size: 32 in the run, 64 now"
    ):
        dry_run_command(path, [*LAYOUT, f"data.train={shards}", f"run.dir={there}"], 64)


def test_the_run_that_this_one_starts_from_is_opened(tmp_path: Path) -> None:
    """And not only its config, from which this one takes its model."""
    texts = [f"{number}: {TEXT}" for number in range(60)]
    path, start = write_config(tmp_path / "config.yaml"), gpt_run(tmp_path / "start")
    overrides = [f"run.dir={tmp_path / 'run'}", f"model.init_from={start}"]
    overrides += ["model.num_layers=2", "model.hidden_size=32", "model.num_attention_heads=2"]
    overrides += ["batch.sequence_length=96"]
    letters = build_shards(tmp_path / "letters", texts, train_tokenizer(texts, "char"))
    with pytest.raises(
        UserError,
        match=r"line: model\.init_from: .* was trained with tokenizer .* build the shards with .*/tokenizer",
    ):
        dry_run_command(path, [*overrides, f"data.train={letters}"], 1)
    weights = next(start.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=r"command line: model\.init_from: .*no checkpoint is good"):
        dry_run_command(path, [*overrides, f"data.train={letters}"], 1)
