"""Checkpoints that are complete and yet not good: those saved while updates were being skipped.

A skipped update does not change the weights, so such a checkpoint holds weights from which no finite step
could be computed; the cause may be the samples or the weights. Its `state.json` says since when.
"""

from pathlib import Path

from data_tools.bounded import read_json
from pretrain.checkpoint.layout import STATE

SUSPECT_SINCE = "suspect_since"
"""Key of `state.json`: the step, counted from 1, from which on every update was skipped; null in a good
checkpoint."""


def suspect_since(path: Path) -> int | None:
    """The value of `SUSPECT_SINCE` in the checkpoint at `path`; also None if it cannot be read."""
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError):
        return None
    since = state.get(SUSPECT_SINCE) if isinstance(state, dict) else None
    return since if isinstance(since, int) and not isinstance(since, bool) else None
