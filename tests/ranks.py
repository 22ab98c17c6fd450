"""Run a worker script as real ranks (gloo), as `pretrain train --processes N` does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SPAWN = "import sys; from pretrain.spawn import spawn; sys.exit(spawn(sys.argv[2:], int(sys.argv[1])))"


def run_ranks(
    worker: Path, processes: int, argument: Any, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `python worker JSON` as `processes` ranks; output is captured, whatever the exit code."""
    command = [sys.executable, "-c", SPAWN, str(processes), sys.executable, str(worker), json.dumps(argument)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
