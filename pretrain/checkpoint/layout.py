"""Names on disk: where the checkpoints of a run are, and which step a folder belongs to."""

import re
from pathlib import Path

from data_tools.bounded import read_json

CHECKPOINTS = "checkpoints"
LATEST = "latest"
MANIFEST = "manifest.json"
INDEX = "index.json"
STATE = "state.json"
TOKENIZER_FOLDER = "tokenizer"
SUSPECT_SINCE = "suspect_since"
"""Key of `state.json`: the step, counted from 1, from which on every update was skipped; null in a good
checkpoint. A skipped update changes no weights, so a checkpoint saved then is complete, and yet not good: no
finite step could be computed from it, because of its weights or of the samples."""
OWN_FILES = frozenset({MANIFEST, INDEX, STATE})

_STEP = re.compile(r"step-(\d{8,})")


def checkpoints_folder(run_dir: Path | str) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(run_dir) / CHECKPOINTS


def step_name(step: int) -> str:
    """Folder name of a step, such as `step-00000200`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step that a folder name stands for; None if it is not exactly such a name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


def steps_in(folder: Path) -> dict[int, Path]:
    """Every path in the folder with a step's name, good or not, newest step first."""
    if not folder.is_dir():
        return {}
    found = {step: path for path in folder.iterdir() if (step := step_of(path.name)) is not None}
    return dict(sorted(found.items(), reverse=True))


def set_aside(folder: Path) -> list[Path]:
    """Folders that a save moved aside to put a new checkpoint of the same step in their place."""
    return sorted(folder.glob(".old-step-*")) if folder.is_dir() else []


def leftovers(folder: Path) -> list[Path]:
    """Folders and files of saves and deletions that did not finish."""
    return sorted(path for end in (".tmp-*", ".*.tmp", ".trash-*") for path in folder.glob(end))


def suspect_since(path: Path) -> int | None:
    """The value of `SUSPECT_SINCE` in the checkpoint at `path`; also None if it cannot be read."""
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError):
        return None
    since = state.get(SUSPECT_SINCE) if isinstance(state, dict) else None
    return since if isinstance(since, int) and not isinstance(since, bool) else None
