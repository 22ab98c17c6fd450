"""Numbers that go wrong on one rank of a run of real processes: all ranks stop, and the message says where.

Cases of one world size run one after another in the same processes, since starting them costs most.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from text_shards import build_shards

from pretrain.checkpoint import find_good, newest_good, open_checkpoint

WORKER = Path(__file__).with_name("health_worker.py")
TP = "parallel.tensor=2"
INTERLEAVED = ["parallel.pipeline=2", "parallel.virtual_pipeline=2", "model.num_layers=4"]
SHARDED = ["parallel.distributed_optimizer=true", "parallel.overlap_grad_reduce=true"]
SKIP = "health.on_nonfinite=skip"
ROLLBACK = ["health.on_spike=rollback", "health.spike_window=8", "health.spike_threshold=6"]
LONGER = ["run.steps=24", "checkpoint.every=10"]
RAMP = "schedule.batch_size=[{until: 11, global_size: 4}]"
LENGTHS = "schedule.sequence_length=[{until: 11, sequence_length: 16}]"
UP, DOWN = "decoder.layers.1.mlp.linear_fc1.weight", "decoder.layers.1.mlp.linear_fc2.weight"
BAD_SAMPLES = {"kind": "labels", "first": 104, "stop": 112}
GRADIENT = {"kind": "gradient", "tensor": DOWN, "steps": [6]}

STOPS: dict[str, tuple[list[str], dict[str, Any], list[str]]] = {
    "loss": (
        [],
        {"kind": "loss", "rank": 1, "steps": [6], "micro_batch": 1},
        ["step 7 (samples 48 to 55)", "rank 1: first the loss in micro-batch 1, samples 54, 55"],
    ),
    "gradient": (
        SHARDED,
        {**GRADIENT, "rank": 1},
        ["step 7 (", f"rank 1: first gradient of {DOWN} in micro-batch 0, samples 50, 51", "samples 54, 55"],
    ),
    "weight": (
        [TP],
        {"kind": "weight", "rank": 1, "steps": [6], "tensor": UP},
        ["step 7 (samples 48 to 55)", f"rank 1: weight {UP} holds 1 element that is not finite"],
    ),
    "output": (
        INTERLEAVED,
        {"kind": "output", "rank": 0, "steps": [6], "tensor": "decoder.layers.0.mlp.linear_fc1"},
        ["rank 0: first output of decoder.layers.0.mlp.linear_fc1 in micro-batch 3, samples 54, 55"],
    ),
    "transient": (
        [],
        {**GRADIENT, "rank": 0, "once": True},
        ["step 7 (samples 48 to 55)", "computed again", DOWN],
    ),
    "one rank's norm": (
        [],
        {"kind": "norm", "rank": 1, "steps": [6]},
        ["step 7 (samples 48 to 55)", "computed again"],
    ),
    "sum": (
        [],
        {**GRADIENT, "value": "1e38"},
        [
            "ranks 0, 1: each rank's own gradients are finite, their sum over ranks",
            f"is not: {DOWN}",
        ],
    ),
    "norm": (
        [],
        {**GRADIENT, "value": "1e30"},
        ["every gradient is finite, their norm is not; the largest is", DOWN],
    ),
    "bit": (
        ["health.replica_check_every=3"],
        {"kind": "bit", "rank": 1, "steps": [6], "tensor": DOWN},
        ["after step 9", f"{DOWN}: rank 0 differs from rank 1"],
    ),
    "bit before a save": (
        [TP],
        {"kind": "bit", "rank": 0, "steps": [9], "tensor": "decoder.final_layernorm.weight"},
        ["after step 10", "decoder.final_layernorm.weight: rank 0 differs from rank 1"],
    ),
    "weight before a save": (
        [TP],
        {"kind": "weights", "rank": 1, "steps": [9], "tensor": UP, "factor": "nan"},
        ["after step 10", UP, "on rank 1 holds numbers that are not finite"],
    ),
    "skips in a row": (
        [SKIP, "health.max_skips=2"],
        {**GRADIENT, "steps": [1, 3, 4, 6, 7, 8], "rank": 1},
        ["step 9 (", "3 steps in a row", f"rank 1: first gradient of {DOWN}"],
    ),
    "rollbacks": (
        [
            "health.on_spike=rollback",
            "health.spike_window=8",
            "health.spike_threshold=2",
            "health.max_rollbacks=2",
        ],
        {"kind": "labels", "first": 104, "stop": 10**9},
        ["a spike again after 2 rollbacks"],
    ),
}
GOES_ON: dict[str, tuple[list[str], dict[str, Any] | None]] = {
    "skip": ([SKIP], {**GRADIENT, "steps": [2, 3, 7], "rank": 1}),
    "skip, sharded": ([SKIP, *SHARDED], {**GRADIENT, "steps": [2, 3, 7], "rank": 1}),
    "skip over a save": ([SKIP], {**GRADIENT, "steps": [8, 9, 10], "rank": 1}),
    "nothing": ([], None),
    "report": (["health.spike_window=8", "health.spike_threshold=6"], BAD_SAMPLES),
    "ignore": (["health.on_spike=ignore"], BAD_SAMPLES),
    "rollback": (ROLLBACK, BAD_SAMPLES),
    "without the range": ([], {"kind": "without", "ranges": [{"first": 80, "stop": 112}]}),
    "bad weights": (ROLLBACK, {"kind": "weights", "steps": [9], "factor": 10, "once": True}),
    "bad weights without the range": ([], {"kind": "without", "ranges": [{"first": 40, "stop": 104}]}),
    "growing batches": ([*ROLLBACK, *LONGER, RAMP], {"kind": "labels", "first": 108, "stop": 116}),
    "growing batches without the range": (
        [*LONGER, RAMP],
        {"kind": "without", "ranges": [{"first": 40, "stop": 116}]},
    ),
    "growing sequences": (
        [*ROLLBACK, *LONGER, LENGTHS],
        {"kind": "labels", "first": 64, "stop": 72, "length": 32},
    ),
    "growing sequences without the range": (
        [*LONGER, LENGTHS],
        {
            "kind": "without",
            "ranges": [{"first": 80, "stop": 88, "length": 16}, {"first": 0, "stop": 72, "length": 32}],
        },
    ),
}
GROWING: dict[str, tuple[int, int, list[dict[str, int]]]] = {
    # 11 steps of 4 samples and 13 of 8; samples of steps 11 to 20 are jumped over.
    "growing batches": (11 * 4 + 13 * 8, (11 * 4 + 13 * 8) * 32, [{"step": 10, "first": 40, "stop": 116}]),
    "growing sequences": (
        24 * 8,
        11 * 8 * 16 + 13 * 8 * 32,
        [{"step": 10, "first": 80, "stop": 88}, {"step": 10, "first": 0, "stop": 72, "order": 1}],
    ),
}
"""Samples trained on, tokens, and ranges jumped over, in `state.json` at the end."""
BLOWN_UP = {"kind": "weights", "steps": [11], "factor": "1e25"}
"""Weights that are finite and of no use, saved before a step shows it."""
OFTEN = [SKIP, "health.max_skips=3", "checkpoint.every=2"]
KEEP_2 = [*OFTEN, "checkpoint.keep_last=2"]
GIVEN_UP: dict[str, tuple[list[str], dict[str, Any] | None]] = {
    "blown up": (KEEP_2, BLOWN_UP),
    "blown up again": (KEEP_2, BLOWN_UP),
    "nothing good": ([*OFTEN, "checkpoint.keep_last=1"], BLOWN_UP),
    "skips at the end": ([SKIP], {**GRADIENT, "steps": [17, 18, 19]}),
}
"""Runs that end with 4 while updates are skipped."""
RESUMED = (("skip", 5), ("rollback", 5), ("rollback", 10), ("growing sequences", 10))
"""Runs, and the steps of the checkpoints that copies of them go on from."""

pytestmark = pytest.mark.slow


class Runs:
    """Every case's run folder and outcome on each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        documents = ["".join(chr(97 + (i * i + 3 * i + salt) % 26) for i in range(700)) for salt in range(30)]
        build_shards(folder / "shards", documents)
        self.config = folder / "config.yaml"
        self.config.write_text(
            f"""
run: {{dir: {folder}/run, steps: 20, seed: 7}}
model: {{kind: gpt, num_layers: 2, hidden_size: 32, num_attention_heads: 4}}
batch: {{global_size: 8, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-2}}
schedule: {{kind: constant}}
checkpoint: {{every: 5, keep_last: 9}}
tracking: {{enabled: false}}
data: {{train: {folder}/shards}}
"""
        )
        self.outcomes: dict[str, list[dict[str, Any]]] = {}

    def run(self, cases: dict[str, tuple[list[str], dict[str, Any] | None]]) -> None:
        asked = [
            (name, self.case(overrides, fault, self.place(name)))
            for name, (overrides, fault) in cases.items()
        ]
        done = run_ranks(WORKER, 2, {"output": str(self.folder), "cases": asked})
        assert done.returncode == 0, done.stderr[-4000:]
        ranks = [json.loads((self.folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
        for name in cases:
            self.outcomes[name] = [found[name] for found in ranks]

    def case(self, overrides: list[str], fault: Any, folder: Path) -> dict[str, Any]:
        return {
            "config": str(self.config),
            "overrides": [*overrides, f"run.dir={folder}"],
            "fault": fault,
        }

    def place(self, name: str) -> Path:
        """Of a case; the same for every `#N` behind its name."""
        name = name.split(" #")[0]
        return self.folder / name.replace(" ", "-").translate({ord(letter): None for letter in "',"})

    def journal(self, name: str) -> list[dict[str, Any]]:
        lines = (self.place(name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, name: str) -> list[float]:
        return [line["loss"] for line in self.journal(name)]

    def newest(self, name: str) -> Any:
        path, passed_over = newest_good(self.place(name))
        assert path is not None and not passed_over
        return open_checkpoint(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("health"))
    stops = {name: (overrides, fault) for name, (overrides, fault, _) in STOPS.items()}
    runs.run(stops | GOES_ON | GIVEN_UP)
    return runs


@pytest.fixture(scope="module")
def resumed(runs: Runs) -> Runs:
    """Runs that go on: copies from an earlier checkpoint, and the same command after a verdict."""
    cases: dict[str, tuple[list[str], dict[str, Any] | None]] = {}
    for name, back_to in RESUMED:
        copy = f"{name} from {back_to}"
        shutil.copytree(runs.place(name), runs.place(copy))
        for path in (runs.place(copy) / "checkpoints").glob("step-*"):
            if int(path.name.removeprefix("step-")) > back_to:
                shutil.rmtree(path)
        (runs.place(copy) / "checkpoints" / "latest").unlink()
        cases[copy] = GOES_ON[name]
    for name in ("blown up", "skips at the end"):
        shutil.copytree(runs.place(name), runs.place(f"{name}, mended"))
        cases[f"{name}, mended"] = (GIVEN_UP[name][0], None)
    for again in range(1, 6):
        cases[f"blown up again #{again}"] = GIVEN_UP["blown up again"]
    runs.run(cases)
    return runs


@pytest.mark.parametrize("name", STOPS)
def test_all_ranks_stop_with_one_message(runs: Runs, name: str) -> None:
    first, second = runs.outcomes[name]
    assert first == second
    assert first["code"] == 4
    for words in STOPS[name][2]:
        assert words in first["message"]
    status = json.loads((runs.place(name) / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["reason"]) == ("failed", 4, first["message"])


@pytest.mark.parametrize("name", [name for name in STOPS if "row" not in name and name != "rollbacks"])
def test_what_is_on_disk_is_from_before_the_fault(runs: Runs, name: str) -> None:
    checkpoint = runs.newest(name)
    assert checkpoint.step == 5
    assert all(bool(checkpoint.read(key).isfinite().all()) for key in checkpoint.keys())  # noqa: SIM118


def test_skipped_steps_are_no_updates(runs: Runs) -> None:
    assert [each["code"] for each in runs.outcomes["skip"]] == [0, 0]
    assert [line["step"] for line in runs.journal("skip") if line.get("skipped")] == [3, 4, 8]
    state = runs.newest("skip").state
    assert (state["step"], state["updates"], state["samples"]) == (20, 17, 160)


def test_a_replay_leaves_nothing_behind(runs: Runs) -> None:
    """Neither overlapped reduction nor sharded states see the gradients of the replay."""
    assert runs.losses("skip, sharded") == pytest.approx(runs.losses("skip"), abs=1e-5)


def test_a_spike_is_reported(runs: Runs) -> None:
    assert [each["code"] for each in runs.outcomes["report"]] == [0, 0]
    assert [line["step"] for line in runs.journal("report") if line.get("spike")] == [14]
    assert runs.losses("report") == runs.losses("ignore")
    assert not any("spike" in line for line in runs.journal("ignore"))


def test_rollback_ends_as_if_the_samples_had_never_been(runs: Runs) -> None:
    assert [each["code"] for each in runs.outcomes["rollback"]] == [0, 0]
    assert runs.losses("rollback") == runs.losses("without the range")
    assert runs.losses("rollback") != runs.losses("report")
    assert same_tensors(runs.newest("rollback"), runs.newest("without the range"))
    state = runs.newest("rollback").state
    assert state["health"]["skipped"] == [{"step": 10, "first": 80, "stop": 112}]
    assert state["samples"] == 20 * 8 + 32
    assert [line["step"] for line in runs.journal("rollback")] == list(range(1, 21))
    assert [line.get("rollbacks") for line in runs.journal("rollback")][9:11] == [None, 1]
    superseded = (runs.place("rollback") / "metrics.superseded.jsonl").read_text().splitlines()
    assert [json.loads(line).get("spike") for line in superseded] == [None, None, None, 1]


@pytest.mark.parametrize("name", GROWING)
def test_rollback_jumps_over_what_was_seen_in_a_run_that_grows(runs: Runs, name: str) -> None:
    """From the second stage back into the first."""
    assert [each["code"] for each in runs.outcomes[name]] == [0, 0]
    assert runs.losses(name) == runs.losses(f"{name} without the range")
    assert same_tensors(runs.newest(name), runs.newest(f"{name} without the range"))
    trained, tokens, skipped = GROWING[name]
    state = runs.newest(name).state
    assert state["health"]["skipped"] == skipped
    assert state["samples"] == trained + sum(each["stop"] - each["first"] for each in skipped)
    assert state["tokens"] == tokens == runs.journal(name)[-1]["tokens"]


def test_a_rollback_to_bad_weights_goes_further_back(runs: Runs) -> None:
    """The checkpoint of step 10 holds them, and the step after it is a spike whatever its samples are."""
    assert [each["code"] for each in runs.outcomes["bad weights"]] == [0, 0]
    health = runs.newest("bad weights").state["health"]
    assert health["skipped"] == [{"step": 5, "first": 40, "stop": 104}] and health["rollbacks"] == 3
    assert runs.losses("bad weights") == runs.losses("bad weights without the range")
    assert same_tensors(runs.newest("bad weights"), runs.newest("bad weights without the range"))


def test_a_streak_of_skips_is_on_the_disk_as_such(runs: Runs) -> None:
    """Weights blew up in step 12, updates from 13 on are skipped, and the fourth skip in a row is the end."""
    assert [each["code"] for each in runs.outcomes["blown up"]] == [4, 4]
    assert steps_of(runs.place("blown up")) == {10: None, 12: None, 14: 13}
    assert (runs.place("blown up") / "checkpoints" / "latest").read_text() == "step-00000012\n"
    found = find_good(runs.place("blown up"))
    assert found.path is not None and found.path.name == "step-00000010"
    assert found.suspect is not None and found.suspect.name == "step-00000014"
    assert [(path.name, reason) for path, reason in found.passed_over] == [
        ("step-00000014", "was saved while updates were skipped, from step 13 on"),
        ("step-00000012", "may be why its next update, of step 13, was skipped"),
    ]
    assert steps_of(runs.place("nothing good")) == {12: None, 14: 13}
    found = find_good(runs.place("nothing good"))
    assert found.path is not None and found.path.name == "step-00000012", (
        "the last from before the first skip"
    )


def test_skips_that_end_well_make_later_checkpoints_good(runs: Runs) -> None:
    """Updates of steps 9 to 11 were skipped; of step 10's checkpoint nobody has any use."""
    assert [each["code"] for each in runs.outcomes["skip over a save"]] == [0, 0]
    assert steps_of(runs.place("skip over a save")) == {5: None, 15: None, 20: None}
    state = runs.newest("skip over a save").state
    assert (state["step"], state["updates"], state["health"]["skips_in_a_row"]) == (20, 17, 0)


def test_a_run_whose_last_updates_were_skipped_has_not_finished(runs: Runs) -> None:
    first, second = runs.outcomes["skips at the end"]
    assert first == second and first["code"] == 4
    assert "the updates of its last steps, from 18 on, were skipped" in first["message"]
    assert steps_of(runs.place("skips at the end")) == {5: None, 10: None, 15: None, 20: 18}


@pytest.mark.parametrize("name", ["blown up", "skips at the end"])
def test_the_same_command_goes_on_from_before_the_skips(resumed: Runs, name: str) -> None:
    """What broke does not break again, so the run is the untroubled one."""
    mended = f"{name}, mended"
    assert [each["code"] for each in resumed.outcomes[mended]] == [0, 0]
    assert resumed.losses(mended) == resumed.losses("nothing")
    assert same_tensors(resumed.newest(mended), resumed.newest("nothing"))


def test_a_run_that_breaks_at_the_same_place_is_given_up(resumed: Runs) -> None:
    messages = [resumed.outcomes[f"blown up again #{again}"][0]["message"] for again in range(1, 6)]
    assert all(
        each["code"] == 4 for again in range(1, 6) for each in resumed.outcomes[f"blown up again #{again}"]
    )
    assert ["4 steps in a row" in message for message in messages] == [True, True, True, False, False]
    assert all("after the run had gone back to step 10 3 times" in message for message in messages[3:])
    place = resumed.place("blown up again")
    assert json.loads((place / "status.json").read_text())["reason"] == messages[-1]
    assert steps_of(place) == {10: None, 12: None, 14: 13}


def test_resume_is_exact_around_verdicts(resumed: Runs) -> None:
    """Copies of the runs that lost their later checkpoints go on from an earlier one to the same end."""
    for name, back_to in RESUMED:
        copy = f"{name} from {back_to}"
        assert [each["code"] for each in resumed.outcomes[copy]] == [0, 0]
        assert resumed.losses(copy) == resumed.losses(name)
        assert same_tensors(resumed.newest(copy), resumed.newest(name))
        assert resumed.newest(copy).state["health"] == resumed.newest(name).state["health"]


def test_the_command_ends_with_4(runs: Runs) -> None:
    done = run_ranks(WORKER, 2, {"command": str(runs.config), "fault": {**GRADIENT, "rank": 1}})
    assert done.returncode == 4
    assert "pretrain: error: step 7 (samples 48 to 55): loss" in done.stderr
    assert f"rank 1: first gradient of {DOWN} in micro-batch 0, samples 50, 51" in done.stderr
    assert "Traceback" not in done.stderr


def same_tensors(one: Any, other: Any) -> bool:
    keys = one.keys()
    return keys == other.keys() and all(bool((one.read(key) == other.read(key)).all()) for key in keys)


def steps_of(run: Path) -> dict[int, int | None]:
    """Every checkpoint, and since when updates had been skipped."""
    paths = sorted((run / "checkpoints").glob("step-*"))
    return {
        int(path.name[-8:]): json.loads((path / "state.json").read_text())["suspect_since"] for path in paths
    }
