"""Seconds from `pretrain train` to the first step, on 10^6 and on 10^8 tokens.

    python benchmarks/startup.py [--quick]

Each start is a new process, timed from its launch to the first line of its journal. The bare imports, timed
the same way, say what is below us: torch, and megatron-core.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from corpus import gpt_config, random_shards
from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

from data_tools.tokenizer import byte_tokenizer

SMALL = ("model.num_layers=1", "model.hidden_size=64", "batch.sequence_length=128", "run.steps=1")


def first_step(folder: Path) -> float:
    """Seconds until the journal of a new run has its first line."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    began = time.time()
    command = [sys.executable, "-m", "pretrain", "train", str(folder / "config.yaml"), *SMALL]
    subprocess.run(command, check=True, capture_output=True)
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    return float(first["time"]) - began


def python(code: str) -> Callable[[], float]:
    """Seconds of a new process that runs some code."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return lambda: timed(lambda: subprocess.run(command, check=True, capture_output=True))


def measure(quick: bool) -> Report:
    """Let the two corpora and the bare imports take turns."""
    rounds, sizes = (2, (10**6, 10**7)) if quick else (7, (10**6, 10**8))
    with tempfile.TemporaryDirectory() as name:
        turns: dict[str, Callable[[], float]] = {}
        names = [f"first step on {size:,} tokens" for size in sizes]
        for title, size in zip(names, sizes, strict=True):
            folder = Path(name) / str(size)
            random_shards(folder / "shards", byte_tokenizer(), size)
            gpt_config(folder, folder / "shards")
            turns[title] = lambda folder=folder: first_step(folder)  # type: ignore[misc]
        turns["import torch"] = python("import torch")
        turns["import megatron.core.models.gpt"] = python("import megatron.core.models.gpt")
        turns["pretrain --help"] = python(
            "import sys; sys.argv[1:] = ['--help']; import pretrain.cli as c; c.main()"
        )
        found = take_turns(turns, rounds)
    rows = [(what, spread(seconds, ".2f")) for what, seconds in found.items()]
    share = ratio(found[names[1]], found[names[0]])
    question = f"New processes, files in the page cache. Median (middle half) of {rounds} turns."
    target = Target(f"{names[1]} / {names[0]}", share, 1.05, at_least=False)
    return Report("startup", question, [Table(("what", "seconds"), rows)], [target])


if __name__ == "__main__":
    main(measure, __doc__)
