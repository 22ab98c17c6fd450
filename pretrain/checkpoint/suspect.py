"""Checkpoints that are whole and yet not good: those saved while updates were being skipped.

A skipped update leaves the weights alone, so such a checkpoint holds weights from which no finite step could
be computed; perhaps the samples are to blame, perhaps the weights. Its `state.json` says since when.
"""

from pathlib import Path

from data_tools.bounded import read_json
from pretrain.checkpoint.layout import STATE

SUSPECT_SINCE = "suspect_since"
"""Key of `state.json`: the step, counted from 1, from which on every update was skipped; null in a good
checkpoint."""


def suspect_since(path: Path) -> int | None:
    """What the checkpoint at `path` says under `SUSPECT_SINCE`; None too where that cannot be read."""
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError):
        return None
    since = state.get(SUSPECT_SINCE) if isinstance(state, dict) else None
    return since if isinstance(since, int) and not isinstance(since, bool) else None
