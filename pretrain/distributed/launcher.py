"""Rank info: which rank this process is, of how many, and who started it.

A command runs in one of three ways, told apart by the environment: as one rank of `srun` (SLURM_*), as one
rank of `torchrun` (RANK, WORLD_SIZE), or alone, as in a step of one task (`srun --pty bash`, or that of
`salloc`). Alone with `--processes N` it starts N ranks of itself on this machine (`spawn.py`), which then
find themselves in torchrun's variables.

Nothing here needs torch: a command that only starts ranks does not wait for its import.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pretrain.errors import UserError

HELD = "PRETRAIN_STORE_IS_HELD"
"""Set by `spawn`, which runs the store itself."""


@dataclass(frozen=True)
class RankInfo:
    """The rank of this process, before the rendezvous."""

    rank: int
    size: int
    local_rank: int
    launcher: str
    """srun, torchrun, or alone."""


def read_rank_info(environment: Mapping[str, str]) -> RankInfo:
    """Read rank and size from the launcher's variables.

    Raises UserError: the variables contradict one another.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names, launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "torchrun"
    elif "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        # A batch script has SLURM_PROCID too, but only a step that srun started has a step id.
        names, launcher = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"), "srun"
    else:
        _refuse_half_a_launcher(environment)
        return RankInfo(0, 1, 0, "alone")
    try:
        rank, size, local_rank = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UserError(f"{launcher} should set {', '.join(names)} to integers: {error}") from None
    if not 0 <= rank < size:
        raise UserError(f"{launcher} says rank {rank} of {size} ranks ({names[0]}, {names[1]})")
    if launcher == "srun" and size == 1:
        return RankInfo(0, 1, 0, "alone")  # no rendezvous needed, whether the task is a shell or this command
    return RankInfo(rank, size, local_rank, launcher)


def _refuse_half_a_launcher(environment: Mapping[str, str]) -> None:
    """Raise UserError if one variable is missing: each rank would train alone, all of them in one run."""
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name in environment:
            raise UserError(
                f"{name}={environment[name]} is set and {other} is not; torchrun sets both; "
                f"to run without one, unset {name}"
            )


def ranks_to_start(place: RankInfo, processes: int | None) -> int:
    """How many ranks of itself a command with `--processes` starts; 1: none, it does the work itself.

    Raises UserError: a launcher has started another number of them.
    """
    if place.launcher == "alone":
        return processes or 1
    if processes not in (None, place.size):
        ranks = "1 rank" if place.size == 1 else f"{place.size} ranks"
        raise UserError(f"--processes {processes}: {place.launcher} has started {ranks} already")
    return 1
