"""What a step pays for journal and tracking, for health checks and for the ranks' agreement on signals.

    python benchmarks/overhead.py [--quick]

Two ranks train with everything on, MLflow's uploader included (sqlite in the run folder), and each part is
timed where the loop calls it. The uploader is a process of its own; what it costs is its CPU time.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, timed

from data_tools.tokenizer import byte_tokenizer
from pretrain.agree import first_decides, largest
from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.health.spikes import Memory, spike_limit
from pretrain.launch import World, join_world
from pretrain.run import Run
from pretrain.spawn import spawn
from pretrain.trainer import Trainer

RANKS, WARM_UP, CHECKPOINT_EVERY = 2, 20, 100
PARTS = ("journal, progress and tracking", "signal agreement", "health: spike rule")
REPLICAS = f"health: replica checks, one in {CHECKPOINT_EVERY} steps"


def rank_main(config: Path, steps: int, answer: Path) -> None:
    """One rank: train `steps` steps, time the parts; rank 0 writes the medians."""
    torch.set_num_threads(1)
    loaded = load_config(str(config), [f"run.steps={steps + WARM_UP}"], RANKS)
    with join_world() as world:
        trainer = Trainer(loaded.config, world)
        text = config.read_text()
        resolved = config_to_yaml(loaded.config)
        with Run.open(
            loaded.config, text, resolved, world.rank, lambda act: first_decides(world, act)
        ) as run:
            run.begin(0, trainer.facts())
            found = train(trainer, run, world, steps)
        found[REPLICAS] = (
            median(timed(lambda: trainer.check_replicas(1)) for _ in range(5)) / CHECKPOINT_EVERY
        )
        if world.is_first:
            answer.write_text(json.dumps(found))


def train(trainer: Trainer, run: Run, world: World, steps: int) -> dict[str, float]:
    """The loop; median seconds a step of the step itself, of each part, and of the uploader's CPU."""
    seconds: dict[str, list[float]] = {name: [] for name in ("step", *PARTS)}
    memory = Memory(tuple(float(i) for i in range(64)))
    began = uploader_seconds(run)

    def note(name: str, act: Callable[[], object]) -> None:
        seconds[name].append(timed(act))

    for index in range(steps + WARM_UP):
        if index == WARM_UP:
            began = uploader_seconds(run)
        result = None

        def step(index: int = index) -> None:
            nonlocal result
            result = trainer.step(index)

        note("step", step)
        assert result is not None
        metrics = result.metrics
        done = index + 1
        note(PARTS[0], lambda done=done, metrics=metrics: run.log_step(done, metrics))  # type: ignore[misc]
        dist.barrier()  # what a rank waits for the other is the step's, not the agreement's
        note(PARTS[1], lambda: largest(world, run.pending()))
        note(PARTS[2], lambda: (spike_limit(memory.losses, 10.0), memory.after(1.0, updated=True, window=64)))
    found = {name: median(values[WARM_UP:]) for name, values in seconds.items()}
    found["uploader"] = (uploader_seconds(run) - began) / steps
    return found


def uploader_seconds(run: Run) -> float:
    """CPU time so far of the run's uploader process."""
    pid = run._uploader.pid if run._uploader else None
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(quick: bool) -> Report:
    """Start the ranks and put what they found in relation to a step."""
    steps = 20 if quick else 300
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = random_shards(folder / "shards", byte_tokenizer(), 1 << 20)
        gpt_config(folder, shards)
        config, answer = folder / "config.yaml", folder / "answer.json"
        config.write_text(
            config.read_text()
            .replace("enabled: false", "enabled: true")
            .replace("global_size: 4", "global_size: 8")
        )
        began = time.perf_counter()
        code = spawn([sys.executable, __file__, "--rank", str(config), str(steps), str(answer)], RANKS)
        assert code == 0, f"the ranks ended with {code}"
        wall = time.perf_counter() - began
        found = json.loads(answer.read_text())
    step = found["step"]
    parts = {name: found[name] for name in (*PARTS, REPLICAS)}
    parts["uploader process, share of both cores"] = found["uploader"] / len(os.sched_getaffinity(0))
    rows = [("step", f"{step * 1e6:,.0f}", "100 %")]
    rows += [(name, f"{value * 1e6:,.0f}", f"{100 * value / step:.2f} %") for name, value in parts.items()]
    targets = [
        Target(f"{name}, % of a step", 100 * value / step, 2, at_least=False) for name, value in parts.items()
    ]
    question = (
        f"4 layers, hidden 256, sequence 256, 4 samples a rank, {RANKS} ranks of one thread, {steps} "
        f"steps in {wall:.0f} s (with start and end). Medians. The verdict on NaN travels with the loss."
    )
    return Report("overhead", question, [Table(("part", "us", "of a step"), rows)], targets)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rank", nargs=3)
    as_rank = parser.parse_known_args()[0].rank
    if as_rank:
        rank_main(Path(as_rank[0]), int(as_rank[1]), Path(as_rank[2]))
    else:
        main(measure, __doc__)
