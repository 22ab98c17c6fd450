"""What a step pays for journal and tracking, health checks, heartbeats and the ranks' agreement on signals.

    python benchmarks/overhead.py [--quick]

Two ranks train with everything on, MLflow's uploader included (sqlite in the run folder), and each part is
timed where the loop calls it. The uploader is a process of its own; what it costs is its CPU time. Heartbeats
are also judged from outside: blocks of steps with and without them in turn.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, timed

from data_tools.tokenizer import byte_tokenizer
from pretrain.config.load import load_config
from pretrain.config.resolved import config_to_yaml
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.spawn import spawn
from pretrain.distributed.world import init_distributed
from pretrain.gpt.trainer import GptTrainer
from pretrain.health.phase_timer import Phase, PhaseTimer
from pretrain.health.spikes import SpikeHistory, spike_limit
from pretrain.health.watchdog import Watchdog
from pretrain.training.session import Session
from pretrain.training.step_sync import StepSync

RANKS, WARM_UP, CHECKPOINT_EVERY = 2, 20, 100
PARTS = (
    "journal, progress and tracking",
    "gate: data thread, agreement on signals, own times",
    "health: spike rule",
    "heartbeat: marks of a step",
)
MARKS = (Phase.DATA, Phase.AGREEMENT, Phase.COMPUTE, Phase.REDUCTION, Phase.UPDATE, Phase.JOURNAL)
INTERVAL = 2.0
BLOCK, STEPS_PER_PAIR = 10, 30
"""Steps of a block with heartbeats, and as many without; a pair of blocks for so many steps asked for."""
REPLICAS = f"health: replica checks, one in {CHECKPOINT_EVERY} steps"


def rank_main(config: Path, steps: int, answer: Path) -> None:
    """One rank: train `steps` steps, time the parts; rank 0 writes the medians."""
    torch.set_num_threads(1)
    loaded = load_config(str(config), [f"run.steps={steps + WARM_UP}"], RANKS)
    with init_distributed() as world:
        gate = StepSync(world)
        trainer = GptTrainer(loaded.config, world, gate)
        text = config.read_text()
        resolved = config_to_yaml(loaded.config)
        with Session.open(
            loaded.config,
            text,
            resolved,
            world.rank,
            lambda act: broadcast_from_rank0(world, act),
            world.size,
        ) as run:
            run.begin(0, trainer.facts())
            found = train(trainer, run, gate, steps)
            found |= heartbeats(trainer, run, gate, steps)
        found[REPLICAS] = (
            median(timed(lambda: trainer.check_replicas(1)) for _ in range(5)) / CHECKPOINT_EVERY
        )
        if world.is_first:
            answer.write_text(json.dumps(found))


def heartbeats(trainer: GptTrainer, run: Session, gate: StepSync, steps: int) -> dict[str, float]:
    """The thread's share of time, and the ratio of step times with and without heartbeats."""
    watch = run._watch
    assert watch is not None
    watch.close()  # its thread; the blocks below beat in its place
    beat = median(timed(watch._tick) for _ in range(50))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for block in range(2 * max(1, steps // STEPS_PER_PAIR)):
        beats, own = block % 2 == 0, gate._pulse
        gate._pulse = run.pulse if beats else Silent()
        stop = threading.Event()
        thread = threading.Thread(target=beat_until, args=(watch, stop, beats))
        thread.start()
        for index in range(BLOCK):
            step = steps + WARM_UP + block * BLOCK + index
            seconds[beats].append(timed(lambda step=step: trainer.step(step)))  # type: ignore[misc]
        stop.set()
        thread.join()
        gate._pulse = own
    ratio = median(seconds[True]) / median(seconds[False])
    return {"beat": beat / INTERVAL, "ratio": ratio}


class Silent(PhaseTimer):
    """Takes no marks."""

    def mark(self, phase: Phase, step: int | None = None, part: int = 0) -> None:
        """Nothing."""


def beat_until(watch: Watchdog, stop: threading.Event, beats: bool) -> None:
    """As the watch's thread, at its interval, with or without what it does."""
    while not stop.wait(INTERVAL):
        if beats:
            watch._tick()


def train(trainer: GptTrainer, run: Session, gate: StepSync, steps: int) -> dict[str, float]:
    """The loop; median seconds a step of the step itself, of each part, and of the uploader's CPU."""
    seconds: dict[str, list[float]] = {name: [] for name in ("step", *PARTS)}
    memory = SpikeHistory(tuple(float(i) for i in range(64)))
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
        note(PARTS[1], lambda: gate.fetch(lambda: ()))
        note(PARTS[2], lambda: (spike_limit(memory.losses, 10.0), memory.after(1.0, updated=True, window=64)))
        note(PARTS[3], lambda: [run.pulse.mark(phase, done) for phase in MARKS])  # noqa: B023
    found = {name: median(values[WARM_UP:]) for name, values in seconds.items()}
    found["uploader"] = (uploader_seconds(run) - began) / steps
    return found


def uploader_seconds(run: Session) -> float:
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
    parts[f"heartbeat: thread, a beat every {INTERVAL:g} s"] = found["beat"] * step
    parts["uploader process, share of both cores"] = found["uploader"] / len(os.sched_getaffinity(0))
    rows = [("step", f"{step * 1e6:,.0f}", "100 %")]
    rows += [(name, f"{value * 1e6:,.0f}", f"{100 * value / step:.2f} %") for name, value in parts.items()]
    rows.append(("with heartbeats / without, in turn", "", f"{found['ratio']:.4f}"))
    beats = sum(value for name, value in parts.items() if name.startswith("heartbeat"))
    targets = [
        Target(f"{name}, % of a step", 100 * value / step, 2, at_least=False) for name, value in parts.items()
    ]
    targets.append(Target("heartbeats together, % of a step", 100 * beats / step, 0.1, at_least=False))
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
