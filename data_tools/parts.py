"""A build in parts, by several machines at once: part K of N does every N-th partition.

`missing_parts` prepares it, `build_part` does one, and the build itself, called last, finds all partitions
done and writes the index. What was done before is not done again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from data_tools.builder import BuildOptions, PartitionResult, prepare, run_partitions
from data_tools.clean.cleaner import LAYOUT, parser, prepare_clean, run_filters
from data_tools.clean.filtering import FilterResult
from data_tools.clean.options import CleanOptions
from data_tools.errors import UserError
from data_tools.images.builder import ImageJob, ImageOptions, ImageResult, prepare_images, run_images
from data_tools.partition import Partition
from data_tools.workspace import SHARDS, Layout, Result, join_workspace, open_workspace, unfinished


@dataclass(frozen=True)
class Divided(Generic[Result]):
    """A build of text or images, or a cleaning, looked at by its partitions."""

    output: Path
    restart: bool
    partitions: list[Partition]
    plan: dict[str, Any]
    """What must be equal for the build to be continued."""
    parse: Callable[[dict[str, Any]], Result]
    run: Callable[[list[Partition], Mapping[int, Result]], object]
    """Does partitions; beside them, those that are done."""
    layout: Layout = SHARDS


Options = BuildOptions | ImageOptions | CleanOptions


def divide(options: Options) -> Divided[Any]:
    """What these options ask for. Raises UserError as the build does."""
    if isinstance(options, BuildOptions):
        return divide_text(options)
    return divide_images(options) if isinstance(options, ImageOptions) else divide_clean(options)


def divide_text(options: BuildOptions) -> Divided[PartitionResult]:
    """A build of token shards. Raises UserError as `build` does."""
    _, partitions, plan, _ = prepare(options)
    return Divided(
        Path(options.output),
        options.restart,
        partitions,
        plan,
        PartitionResult.parse,
        lambda mine, done: run_partitions(options, mine, done),
    )


def divide_images(options: ImageOptions) -> Divided[ImageResult]:
    """A build of image shards. Raises UserError as `build_images` does."""
    _, partitions, plan, classes = prepare_images(options)
    return Divided(
        Path(options.output),
        options.restart,
        partitions,
        plan,
        ImageResult.parse,
        lambda mine, done: run_images(ImageJob(options, classes), mine, done),
    )


def divide_clean(options: CleanOptions) -> Divided[FilterResult]:
    """A cleaning: its parts filter, and the cleaning itself, called last, looks for duplicates.

    Raises UserError as `clean` does.
    """
    _, partitions, plan = prepare_clean(options)
    return Divided(
        Path(options.output),
        options.restart,
        partitions,
        plan,
        parser(partitions),
        lambda mine, done: run_filters(options, mine, done),
        LAYOUT,
    )


def missing_parts(build: Divided[Result], parts: int) -> list[int] | None:
    """Prepare a build for `parts` processes, and name the parts (from 1) that have something to do.

    Returns None if the build is finished, index and all.
    Raises UserError as the build does.
    """
    with open_workspace(build.output, build.plan, build.restart, build.layout) as workspace:
        if workspace is None:
            return None
        done = workspace.finished(len(build.partitions), build.parse)
        workspace.clean(done)
        return sorted({number % parts + 1 for number in range(len(build.partitions)) if number not in done})


def build_part(build: Divided[Result], part: int, parts: int) -> tuple[int, int]:
    """Do part `part` of `parts`, counted from 1.

    Returns how many partitions it has, and how many of them were done before.
    Raises UserError as the build does, and if the build was not prepared.
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
    """K and N of "K/N". Raises UserError for anything else, and for `--restart` beside it."""
    if restart:
        raise UserError("--restart: has no effect with --part; a build is prepared before its parts start")
    part, slash, parts = text.partition("/")
    if not (slash and part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UserError(f"--part {text}: K/N with whole numbers, as in 3/16")
    return int(part), int(parts)
