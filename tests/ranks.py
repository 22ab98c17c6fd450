"""Run a worker script as real ranks (gloo), as `pretrain train --processes N` does."""

import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.run.exit import run_and_exit

SPAWN = (
    "import sys; from pretrain.distributed.spawn import spawn; "
    "sys.exit(spawn(sys.argv[2:], int(sys.argv[1])))"
)


def run_ranks(
    worker: Path, processes: int, argument: Any, timeout: float = 1200, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python worker JSON` as `processes` ranks, behind another command if there is one before it; output
    is captured, whatever the exit code."""
    rank = [sys.executable, __file__, str(worker), json.dumps(argument)]
    command = [*before, sys.executable, "-c", SPAWN, str(processes), *rank]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def main() -> None:
    """One rank: the worker as the program of this process."""
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    run_and_exit(main)
