"""One of two ranks whose machines differ: {"folder": where each says what it computes with}."""

import json
import os
import sys
from pathlib import Path

import torch

from pretrain.cpu.products import settle
from pretrain.cpu.products.choice import CLASSES, TYPES, in_force
from pretrain.cpu.products.trial import Trial
from pretrain.distributed.world import init_distributed
from pretrain.run.exit import run_and_exit


def main() -> None:
    folder, rank = Path(json.loads(sys.argv[1])["folder"]), int(os.environ["RANK"])
    # Rank 1 has no oneDNN in bf16, and its trial says the opposite of rank 0's.
    having = [
        (kind, name)
        for kind in TYPES
        for name in ("torch", "onednn", *(["widened"] if kind == "bf16" else []))
    ]
    if rank == 1:
        having.remove(("bf16", "onednn"))
    times = {"torch": 1.0, "onednn": 0.1 if rank == 0 else 2.0, "widened": 0.5}
    settle.available_here = lambda: tuple(having)
    settle.known_trial = lambda: Trial({}, dict.fromkeys(CLASSES, times), 0.0)
    with init_distributed() as world:
        assert world.products is not None
        assert in_force() == world.products.choice
        torch.distributed.barrier()
        (folder / str(rank)).write_text(f"{world.products.choice.text}, asked {world.products.asked}")


if __name__ == "__main__":
    run_and_exit(main)
