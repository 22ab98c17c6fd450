"""A build in parts, by several machines at once: part K of N does every N-th partition.

`missing_parts` prepares it, `build_part` does one, and `build` itself, called last, finds all partitions
done and writes the index. What was done before is not done again.
"""

from pathlib import Path

from data_tools.builder import BuildOptions, PartitionResult, prepare, run_partitions
from data_tools.errors import UserError
from data_tools.workspace import Workspace, join_workspace, open_workspace


def missing_parts(options: BuildOptions, parts: int) -> list[int] | None:
    """Prepare a build for `parts` processes, and name the parts (from 1) that have something to do.

    Returns None if the build is finished, index and all.
    Raises UserError as `build` does.
    """
    _, partitions, plan, _ = prepare(options)
    with open_workspace(Path(options.output), plan, options.restart) as workspace:
        if workspace is None:
            return None
        done = workspace.finished(len(partitions), PartitionResult.parse)
        workspace.clean(done)
        return sorted({number % parts + 1 for number in range(len(partitions)) if number not in done})


def build_part(options: BuildOptions, part: int, parts: int) -> tuple[int, int]:
    """Do part `part` of `parts`, counted from 1.

    Returns how many partitions it has, and how many of them were done before.
    Raises UserError as `build` does, and if the build was not prepared.
    """
    if not 1 <= part <= parts:
        raise UserError(f"--part {part}/{parts}: parts are counted from 1 to {parts}")
    _, partitions, plan, _ = prepare(options)
    mine = [partition for partition in partitions if partition.number % parts == part - 1]
    directory = Path(options.output)
    try:
        with join_workspace(directory, plan, part):
            every = Workspace(directory).finished(len(partitions), PartitionResult.parse)
            done = {
                partition.number: every[partition.number] for partition in mine if partition.number in every
            }
            run_partitions(options, mine, done)
    except OSError as error:
        raise UserError(f"--output {options.output}: {error}; run the same command again to go on") from None
    return len(mine), len(done)


def parse_part(text: str) -> tuple[int, int]:
    """K and N of "K/N". Raises UserError for anything else."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--part {text}: K/N with whole numbers, as in 3/16")
    return int(part), int(parts)
