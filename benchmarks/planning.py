"""CPU seconds and memory of `pretrain plan` and of a dry run, for GPT-3 175B on 1,024 GPUs.

    python benchmarks/planning.py [--quick]

Each is a process of its own from its start to its end; the preset is configs/gpt/gpt3-175b.yaml, the data a
small shard directory of random ids.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus import random_shards
from measure import Report, Table, Target, main, spread

from data_tools.tokenizer import byte_tokenizer

PRESET = Path(__file__).parents[1] / "configs" / "gpt" / "gpt3-175b.yaml"
GPUS = "1024"
MOST_SECONDS, MOST_MEMORY = 10.0, 2e9


def cost(command: list[str]) -> tuple[float, float]:
    """User CPU seconds and the largest resident memory in bytes of a command that must end well."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "pretrain", *command], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"pretrain {' '.join(command)} ended with {status}")
    return used.ru_utime, used.ru_maxrss * 1024


def measure(quick: bool) -> Report:
    """Both commands, in turn."""
    rounds = 1 if quick else 5
    found: dict[str, list[tuple[float, float]]] = {"plan": [], "train --dry-run": []}
    with tempfile.TemporaryDirectory() as name:
        shards = random_shards(Path(name) / "shards", byte_tokenizer(), 100_000)
        data = [f"data.train={shards}", "data.validation_fraction=0.1", f"run.dir={name}/run"]
        for _ in range(rounds):
            found["plan"].append(cost(["plan", str(PRESET), "--gpus", GPUS]))
            command = ["train", str(PRESET), "--processes", GPUS, "--dry-run", *data]
            found["train --dry-run"].append(cost(command))
    rows, targets = [], []
    for what, costs in found.items():
        seconds, sizes = zip(*costs, strict=True)
        rows.append((what, spread(seconds, ".2f"), f"{max(sizes) / 1e9:.2f}"))
        targets.append(Target(f"{what}: user CPU seconds", max(seconds), MOST_SECONDS, at_least=False))
        targets.append(Target(f"{what}: GB", max(sizes) / 1e9, MOST_MEMORY / 1e9, at_least=False))
    question = f"New processes. Median (middle half) of {rounds} turns; the largest memory of all."
    return Report("planning", question, [Table(("what", "user CPU seconds", "GB resident"), rows)], targets)


if __name__ == "__main__":
    main(measure, __doc__)
