"""One real Slurm cluster of four nodes for all tests here; they need root and Debian's packages."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import Hold
from config_files import REPOSITORY
from text_shards import build_shards

from slurm.sandbox.cluster import Sandbox
from slurm.sandbox.conf import Shape
from slurm.sandbox.packages import missing_packages


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    if missing := missing_packages():
        pytest.fail(f"jobs run on a real Slurm; install it: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        pytest.fail(
            "jobs run on a real Slurm, whose daemons root starts; leave these tests out: -m 'not slow'"
        )
    cluster = Sandbox(tmp_path_factory.mktemp("cluster"))
    cluster.up(Shape(nodes=4))
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module", autouse=True)
def environment(sandbox: Sandbox) -> Iterator[None]:
    """Jobs inherit it; the tests of other folders, which may run before the cluster is down, do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(sandbox.conf))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{number} {number * number} " * 12 for number in range(60)]
    return build_shards(tmp_path_factory.mktemp("data") / "shards", texts)


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Hold:
    """A Python that is held by files (`held.py`)."""
    folder = tmp_path_factory.mktemp("hold")
    words = (sys.executable, str(Path(__file__).with_name("held.py")))
    python = folder / "python"
    python.write_text(f'#!/bin/bash\nexec {shlex.join(words)} "$@"\n')
    python.chmod(0o755)
    return Hold(folder, python)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A GPT that trains in seconds, on two nodes with a process each, without a preflight."""
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    tree = {
        "run": {"dir": "to be overridden", "steps": 30},
        "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
        "batch": {"global_size": 4, "micro_size": 2, "sequence_length": 32},
        "optimizer": {"lr": 1e-3},
        "data": {"train": str(shards), "validation_fraction": 0.1},
        "checkpoint": {"every": 1000, "keep_last": 20},
        "tracking": {"enabled": False},
        "slurm": {"nodes": 2, "signal_seconds": 10, "preflight": False},
    }
    path.write_text(yaml.safe_dump(tree))
    return path
