"""A build in parts, by several machines at once: part K of N does every N-th partition.

`missing_parts` prepares it, `build_part` does one, and the build itself, called last, finds all partitions
done and writes the index. Finished partitions are not processed again.
"""

from typing import Any

from data_tools.builder import BuildOptions, prepare
from data_tools.clean.cleaner import prepare_clean
from data_tools.clean.options import CleanOptions
from data_tools.divided import Divided, Result
from data_tools.errors import UserError
from data_tools.images.builder import ImageBuildOptions, prepare_images
from data_tools.workspace import join_workspace, open_workspace, unfinished

Options = BuildOptions | ImageBuildOptions | CleanOptions


def divide(options: Options) -> Divided[Any]:
    """The build that these options describe; a part of a cleaning does the filtering. Raises UserError as the
    build does."""
    if isinstance(options, BuildOptions):
        return prepare(options)[1]
    return prepare_images(options)[1] if isinstance(options, ImageBuildOptions) else prepare_clean(options)[1]


def missing_parts(build: Divided[Result], parts: int) -> list[int] | None:
    """Prepare a build for `parts` processes, and return the parts (from 1) that still have work to do.

    Returns None if the build is finished, including the index. Raises UserError as the build does.
    """
    with open_workspace(build.output, build.plan, build.options.restart, build.layout) as workspace:
        if workspace is None:
            return None
        done = workspace.finished(len(build.partitions), build.parse)
        workspace.clean(done)
        return sorted({number % parts + 1 for number in range(len(build.partitions)) if number not in done})


def build_part(build: Divided[Result], part: int, parts: int) -> tuple[int, int]:
    """Do part `part` of `parts`, counted from 1.

    Returns how many partitions the part has, and how many of them were done before. Raises UserError as the
    build does, and if the build was not prepared.
    """
    if not 1 <= part <= parts:
        raise UserError(f"--part {part}/{parts}: parts are counted from 1 to {parts}")
    mine = [partition for partition in build.partitions if partition.number % parts == part - 1]
    try:
        with join_workspace(build.output, build.plan, part, build.layout) as workspace:
            every = workspace.finished(len(build.partitions), build.parse)
            done = {
                partition.number: every[partition.number] for partition in mine if partition.number in every
            }
            build.run(mine, done)
    except OSError as error:
        raise unfinished(str(build.output), error) from None
    return len(mine), len(done)


def parse_part(text: str, *, restart: bool) -> tuple[int, int]:
    """K and N of "K/N". Raises UserError for anything else, and if `--restart` is given too."""
    if restart:
        raise UserError("--restart: has no effect with --part; a build is prepared before its parts start")
    part, slash, parts = text.partition("/")
    if not (slash and part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--part {text}: K/N with whole numbers, as in 3/16")
    return int(part), int(parts)
