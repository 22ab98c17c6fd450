"""Ranks and their processes in words, for messages."""

from collections.abc import Sequence
from pathlib import Path


def process_state(pid: int) -> str:
    """Linux's letter for a process: R, S, D, T (stopped), Z (zombie) and so on; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def in_runs(numbers: Sequence[int], to: str) -> str:
    """`3, 7`; three or more in a row by their ends, as `0-3, 7` or with ` to ` between."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}{to}{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def some_ranks(numbers: Sequence[int]) -> str:
    """`rank 3`, or `ranks 0-3, 7`."""
    return f"rank{'s' if len(numbers) > 1 else ''} {in_runs(numbers, '-')}"
