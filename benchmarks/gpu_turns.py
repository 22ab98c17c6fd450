"""How the GPU's contenders take turns: each has it to itself, in a process of its own, as two would not fit.

A program of contenders calls `serve` when `turns` has started it with the arguments that it gave.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measure import timed

WARM_UP = 5
MakeStep = Callable[[ExitStack], Callable[[], object]]


def device() -> Any:
    """The first GPU; the CPU where there is none."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_name() -> str:
    """For a report."""
    import torch

    return torch.cuda.get_device_name() if device().type == "cuda" else "CPU"


def require_gpu(quick: bool) -> None:
    """End where there is none, unless the benchmark is only tried."""
    if device().type != "cuda" and not quick:
        sys.exit("this needs a GPU; --quick tries the script on a CPU")


def finish() -> None:
    """Wait until the GPU has done all that it was given."""
    import torch

    if device().type == "cuda":
        torch.cuda.synchronize()


def serve(make: MakeStep, steps: int, output: Path) -> None:
    """A contender's process: seconds a step after the warm-up, and the most memory allocated."""
    import torch

    torch.manual_seed(0)
    with ExitStack() as stack:
        step = make(stack)
        for _ in range(WARM_UP):
            step()
        finish()

        def all_steps() -> None:
            for _ in range(steps):
                step()
            finish()

        seconds = timed(all_steps) / steps
        memory = torch.cuda.max_memory_allocated() if device().type == "cuda" else 0
    output.write_text(json.dumps({"seconds": seconds, "memory": memory}))


def turns(
    program: str, names: Sequence[str], rounds: int, *arguments: str
) -> dict[str, list[dict[str, float]]]:
    """Start `program OUTPUT NAME ARGUMENT...` for each name in each round; what the processes found."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                command = [sys.executable, program, "--serve", str(output), name, *arguments]
                subprocess.run(command, check=True)
                found[name].append(json.loads(output.read_text()))
    return found
