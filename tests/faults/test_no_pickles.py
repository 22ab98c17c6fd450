"""No trainer unpickles what another rank sends: runs of every kind on two ranks, where unpickling fails."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_runs import bert_run
from bert_shards import bert_tokenizer, build_bert_shards, prose
from chat_runs import CONFIG as CHAT
from chat_runs import PAIRS, gpt_run, overrides_for, write_pairs
from config_files import REPOSITORY
from gan_configs import gan_tree
from image_shards import build_image_shards
from ranks import run_ranks
from text_shards import build_shards

from pretrain.checkpoint import newest_good

WORKER = Path(__file__).with_name("no_pickles_worker.py")
COMMON = [
    "run.steps=4",
    "checkpoint.every=2",
    "eval.every=2",
    "tracking.enabled=false",
    "schedule.warmup_steps=1",
]
TEXTS = [f"{number} bottles of {'beer ' * (number % 7)}on the wall. " * 3 for number in range(60)]
LAYOUTS = (
    ["parallel.distributed_optimizer=true", "batch.micro_size=2"],
    ["parallel.tensor=2", "parallel.sequence=true"],
    ["parallel.pipeline=2", "precision=bf16"],
    ["parallel.context=2"],
)
STAGES = ((0, 0), (1, 1), (2, 2), (3, 2), (3, 3))

pytestmark = pytest.mark.slow


def written(path: Path, tree: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def runs_of_text(folder: Path) -> list[Any]:
    shards = build_shards(folder / "shards", TEXTS)
    data = [f"data.train={shards}", "data.validation_fraction=0.2"]
    gpt = written(
        folder / "gpt.yaml",
        {
            "run": {"steps": 4, "dir": "to be overridden"},
            "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
            "batch": {"global_size": 4, "micro_size": 2, "sequence_length": 32},
            "optimizer": {"lr": 1e-3},
            "data": {"train": "to be overridden"},
        },
    )
    recurrent = written(
        folder / "rnn.yaml",
        {
            "run": {"steps": 4, "dir": "to be overridden"},
            "model": {"kind": "rnn", "cell": "lstm", "num_layers": 1, "hidden_size": 16},
            "batch": {"global_size": 4, "micro_size": 2, "sequence_length": 16},
            "optimizer": {"lr": 1e-3},
            "data": {"train": "to be overridden"},
        },
    )
    runs = [
        [gpt, [*data, *layout, f"run.dir={folder / f'gpt-{number}'}", *COMMON], True]
        for number, layout in enumerate(LAYOUTS)
    ]
    return [*runs, [recurrent, [*data, f"run.dir={folder / 'rnn'}", *COMMON], True]]


def runs_of_answers(folder: Path) -> list[Any]:
    """BERT, a classifier made of one, and a GPT that learns answers."""
    build_bert_shards(folder / "bert-data", prose()[:8], bert_tokenizer())
    rows = [f"the film of Ada is {'fine' if number % 2 else 'dull'}\t{number % 2}" for number in range(24)]
    for name, held in (("train.tsv", rows[:16]), ("held.tsv", rows[16:])):
        (folder / name).write_text("\n".join(["sentence\tlabel", *held]) + "\n")
    parent = bert_run(folder / "bert-parent", rows)
    bert = [f"data.train={folder / 'bert-data' / 'shards'}", "data.validation_fraction=0.2"]
    bert += ["batch.sequence_length=64", "batch.global_size=4", "batch.micro_size=2"]
    bert += ["data.validation=null", f"run.dir={folder / 'bert'}"]
    finetune = [f"model.init_from={parent}", f"data.train={folder / 'train.tsv'}", "batch.micro_size=2"]
    finetune += [f"data.validation={folder / 'held.tsv'}", "batch.global_size=4"]
    finetune += [f"run.dir={folder / 'finetune'}", "parallel.distributed_optimizer=true"]
    pairs = write_pairs(folder / "pairs.jsonl", PAIRS)
    chat = overrides_for(gpt_run(folder / "gpt-parent"), pairs, folder / "chat", "batch.micro_size=2")
    shipped = REPOSITORY / "configs" / "bert"
    return [
        [str(shipped / "tiny.yaml"), [*bert, *COMMON], True],
        [str(shipped / "finetune-classification.yaml"), [*finetune, *COMMON], True],
        [
            str(CHAT),
            [*chat, "run.steps=4", "checkpoint.every=2"],
            False,
        ],
    ]


def runs_of_images(folder: Path) -> list[Any]:
    shards = build_image_shards(folder / "images", 24, size=16)
    cnn = {
        "run": {"dir": str(folder / "cnn"), "steps": 4},
        "model": {"kind": "cnn", "width": 4, "stages": 2, "features": 8},
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 1e-2},
        "data": {"train": shards, "validation": build_image_shards(folder / "held", 12, size=16, seed=5)},
    }
    runs: list[Any] = [[written(folder / "cnn.yaml", cnn), COMMON, True]]
    for generator, discriminator in STAGES:
        place = folder / f"gan-{generator}-{discriminator}"
        stages = {
            "parallel__generator_stage": generator,
            "parallel__discriminator_stage": discriminator,
            "run__dir": str(place),
            "data__train": shards,
            "checkpoint__every": 2,
            "run__steps": 4,
            "tracking__enabled": False,
        }
        runs.append([written(place.with_suffix(".yaml"), gan_tree(**stages)), [], False])
    return runs


@pytest.mark.parametrize("make", [runs_of_text, runs_of_answers, runs_of_images])
def test_nothing_is_unpickled(make: Any, tmp_path: Path) -> None:
    runs = make(tmp_path)
    done = run_ranks(WORKER, 2, {"runs": runs})
    assert done.returncode == 0, done.stderr
    for name in {path.parent for path in tmp_path.glob("*/checkpoints")}:
        if "parent" not in name.name:
            assert newest_good(name)[0] == name / "checkpoints" / "step-00000004"
