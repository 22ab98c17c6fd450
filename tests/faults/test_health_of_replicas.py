"""Verdicts on numbers in runs of an RNN and a CNN: what they save, jump over, go back to and remember."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_shards import build_image_shards
from ranks import run_ranks
from text_shards import build_shards

from pretrain.checkpoint import newest_good, open_checkpoint

WORKER = Path(__file__).with_name("health_worker.py")
SIZE = 4
MODELS: dict[str, dict[str, Any]] = {
    "rnn": {
        "model": {"kind": "rnn", "cell": "gru", "num_layers": 1, "hidden_size": 16},
        "batch": {"global_size": SIZE, "micro_size": 2, "sequence_length": 16},
    },
    "cnn": {
        "model": {"kind": "cnn", "width": 4, "stages": 2, "features": 8},
        "batch": {"global_size": SIZE, "micro_size": 2},
    },
}
SKIP = ["health.on_nonfinite=skip"]
ROLLBACK = ["health.on_spike=rollback", "health.spike_window=8", "health.spike_threshold=9"]
CASES: dict[str, tuple[list[str], dict[str, Any] | None]] = {
    "nothing": ([], None),
    "rollback": (ROLLBACK, {"kind": "replica", "steps": [11], "factor": 1e6, "once": True}),
    "skip": (SKIP, {"kind": "replica", "steps": [8, 9, 10], "factor": "nan"}),
    "end": (SKIP, {"kind": "replica", "steps": [17, 18, 19], "factor": "inf"}),
}

pytestmark = pytest.mark.slow


class Runs:
    """Every case of both models, and what goes on from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        build_shards(folder / "rnn-shards", [f"{n} bottles of {'beer ' * (n % 7)}. " * 9 for n in range(60)])
        build_image_shards(folder / "cnn-shards", 24)
        for kind, model in MODELS.items():
            tree = {
                **model,
                "run": {"dir": str(folder), "steps": 20, "seed": 3},
                "optimizer": {"lr": 1e-3},
                "schedule": {"kind": "constant"},
                "data": {"train": str(folder / f"{kind}-shards")},
                "checkpoint": {"every": 5, "keep_last": 9},
                "tracking": {"enabled": False},
            }
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump(tree))
        self.codes: dict[str, Any] = {}

    def run(self, cases: dict[str, tuple[list[str], dict[str, Any] | None]]) -> None:
        asked = [
            (
                f"{kind} {name}",
                {
                    "config": str(self.folder / f"{kind}.yaml"),
                    "overrides": [*overrides, f"run.dir={self.place(kind, name)}"],
                    "fault": fault,
                },
            )
            for kind in MODELS
            for name, (overrides, fault) in cases.items()
        ]
        done = run_ranks(WORKER, 1, {"output": str(self.folder), "cases": asked})
        assert done.returncode == 0, done.stderr[-4000:]
        self.codes |= json.loads((self.folder / "rank-0.json").read_text())

    def place(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{name.replace(' ', '-')}"

    def losses(self, kind: str, name: str) -> list[float]:
        lines = (self.place(kind, name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def newest(self, kind: str, name: str) -> Any:
        path, passed_over = newest_good(self.place(kind, name))
        assert path is not None and not passed_over
        return open_checkpoint(path)

    def assert_same(self, kind: str, one: str, other: str) -> None:
        assert self.codes[f"{kind} {one}"]["code"] == 0, self.codes
        assert self.losses(kind, one) == self.losses(kind, other)
        a, b = self.newest(kind, one), self.newest(kind, other)
        assert a.keys() == b.keys() and all(bool((a.read(key) == b.read(key)).all()) for key in a.keys())  # noqa: SIM118
        state = {key for key in a.state if key not in ("run", "health")}
        assert {key: a.state[key] for key in state} == {key: b.state[key] for key in state}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("replicas"))
    runs.run(CASES)
    copies: dict[str, tuple[list[str], dict[str, Any] | None]] = {}
    for name, back_to in (("rollback", 5), ("rollback", 10), ("end", 20)):
        # From step 5 the spike comes again; behind the rollback and the verdict nothing is wrong any more.
        overrides, fault = CASES[name]
        copies[f"{name} from {back_to}"] = overrides, fault if back_to == 5 else None
        for kind in MODELS:
            copy = runs.place(kind, f"{name} from {back_to}")
            shutil.copytree(runs.place(kind, name), copy)
            for path in (copy / "checkpoints").glob("step-*"):
                if int(path.name[-8:]) > back_to:
                    shutil.rmtree(path)
            (copy / "checkpoints" / "latest").unlink()
    runs.run(copies)
    return runs


@pytest.mark.parametrize("kind", MODELS)
def test_a_rollback_is_in_the_checkpoint(runs: Runs, kind: str) -> None:
    assert runs.codes[f"{kind} rollback"]["code"] == 0
    state = runs.newest(kind, "rollback").state
    assert state["health"]["skipped"] == [{"step": 10, "first": 10 * SIZE, "stop": 12 * SIZE}]
    assert state["samples"] == 20 * SIZE + 2 * SIZE
    unit = {"rnn": ("tokens", 16), "cnn": ("images", 1)}[kind]
    assert state[unit[0]] == 20 * SIZE * unit[1]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("back_to", [5, 10])
def test_a_resumed_run_remembers(runs: Runs, kind: str, back_to: int) -> None:
    """From step 5 it must know the losses before it to see the spike, from step 10 what is jumped over."""
    runs.assert_same(kind, f"rollback from {back_to}", "rollback")
    resumed, whole = runs.newest(kind, f"rollback from {back_to}"), runs.newest(kind, "rollback")
    assert resumed.state["health"] == whole.state["health"]


@pytest.mark.parametrize("kind", MODELS)
def test_skipped_updates(runs: Runs, kind: str) -> None:
    """Those of steps 9 to 11; of the checkpoint of step 10 nobody has any use, once others follow."""
    assert runs.codes[f"{kind} skip"]["code"] == 0
    state = runs.newest(kind, "skip").state
    assert (state["step"], state["updates"], state["suspect_since"]) == (20, 17, None)
    steps = sorted(path.name[-2:] for path in (runs.place(kind, "skip") / "checkpoints").glob("step-*"))
    assert steps == ["05", "15", "20"]


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_that_ends_in_skips_goes_back(runs: Runs, kind: str) -> None:
    ended = runs.codes[f"{kind} end"]
    assert ended["code"] == 4 and "from 18 on, were skipped" in ended["message"]
    runs.assert_same(kind, "end from 20", "nothing")


def test_no_state_is_carried_on_from_a_skipped_step(runs: Runs) -> None:
    """What an RNN read while its numbers were not finite would spoil the steps to come."""
    carried = {
        name: open_checkpoint(runs.place("rnn", name) / "checkpoints" / "step-00000020").read("carried_state")
        for name in ("nothing", "end")
    }
    assert bool(carried["nothing"].abs().sum(-1).all())
    assert not bool(carried["end"].any())
