"""Measurements from earlier jobs of a run: seconds of a step and of a save."""

import re
from itertools import pairwise
from statistics import median

from data_tools.bounded import last_lines
from pretrain.config.sections import Config
from pretrain.run.folder import RunFolder
from pretrain.run.progress import RATE
from pretrain.tracking.journal import Entry, decode

LAST_BYTES = 1 << 16
SAVED = re.compile(r"saved \S+: .* in ([\d.]+) s ")
SMALLEST_SIGNAL = 120
LARGEST_SIGNAL = 65_535
"""sbatch stores the seconds of --signal in 16 bits."""


def step_seconds(run: RunFolder) -> float | None:
    """Median time between the last steps in the journal; None if there are too few."""
    entries = _last_entries(run)
    times = [
        (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(entries)
        if after["step"] > before["step"]
    ]
    return median(times) if times else None


def last_entry(run: RunFolder) -> Entry | None:
    """The last step in the journal; None if there is none."""
    return next(reversed(_last_entries(run)), None)


def save_seconds(run: RunFolder) -> float | None:
    """The longest save in the log of rank 0; None if there was none."""
    lines = last_lines(run.rank_log(0), 16 * LAST_BYTES)
    found = (SAVED.search(line.decode(errors="replace")) for line in lines)
    return max((float(match[1]) for match in found if match), default=None)


def signal_seconds(config: Config, run: RunFolder) -> int:
    """Seconds before the time limit at which a job is told to save.

    `slurm.signal_seconds`, or three times what a step and a save have taken.
    """
    if config.slurm.signal_seconds is not None:
        return config.slurm.signal_seconds
    needed = 3 * ((save_seconds(run) or 0.0) + (step_seconds(run) or 0.0))
    return min(max(SMALLEST_SIGNAL, round(needed)), LARGEST_SIGNAL)


def _last_entries(run: RunFolder) -> list[Entry]:
    """The last training steps in the journal."""
    found = map(decode, last_lines(run.metrics, LAST_BYTES))
    return [each for each in found if each and "time" in each and any(name.endswith(RATE) for name in each)]
