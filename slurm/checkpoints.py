"""`python -m slurm.checkpoints RUN FOLDER`: the next checkpoint of a run that has not been scored.

Prints its path and records it in FOLDER/scored; prints nothing while the run may still write one; exits with
1 once the run has ended and all are scored. Imports no torch.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.run.folder import RunFolder
from pretrain.run.status import is_over


def next_checkpoint(run: RunFolder, scored: Path) -> Path | None:
    """The oldest complete checkpoint whose name is not in the file `scored`."""
    known = set(scored.read_text().split()) if scored.exists() else set()
    complete = sorted(path.parent for path in run.checkpoints.glob("step-*/manifest.json"))
    return next((path for path in complete if path.name not in known), None)


def main(arguments: Sequence[str]) -> int:
    """Run the command as described above; returns the exit code."""
    run, scored = RunFolder(arguments[0]), Path(arguments[1]) / "scored"
    over = is_over(run)  # asked before the listing, so that the last checkpoint is not missed
    found = next_checkpoint(run, scored)
    if found is not None:
        with open(scored, "a") as file:
            file.write(f"{found.name}\n")
        sys.stdout.buffer.write(os.fsencode(found) + b"\n")  # the raw bytes of the name, for bash
        return 0
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
