"""What is wrong with a job before it waits in a queue for a day to say so itself."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pretrain.config.load import LoadedConfig
from pretrain.config.node import ConfigError, Problem
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Config
from pretrain.config.sections.slurm import seconds_of
from pretrain.config.unreached import unreached
from pretrain.folder import RunFolder
from slurm.measured import step_seconds
from slurm.tasks import Tasks

LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "ramfs", "zfs", "f2fs")
"""File systems of one machine."""


def refuse(loaded: LoadedConfig, run: RunFolder) -> None:
    """Refuse a job that could not go on.

    Raises:
        ConfigError: everything that was found.
    """
    problems = [
        Problem(loaded.sources[key], key, text)
        for key, text in (
            *_run_folder(loaded.config, run),
            *_programs(loaded.config),
            *_time(loaded.config, run),
        )
    ]
    if problems:
        raise ConfigError(problems)


def doubts(config: Config, tasks: Tasks, run: RunFolder) -> Iterator[str]:
    """What may be wrong, and cannot be told from here."""
    kind = file_system(run.path)
    if tasks.nodes > 1 and kind in LOCAL:
        yield f"run.dir: {run.path} lies on {kind}, which is of this machine alone; all nodes must see it"
    for key, text in unreached(config):
        yield f"{key}: {text}"
    if config.checkpoint.every is None:
        yield "checkpoint.every is null: a node that fails costs everything since the last signal"


def _run_folder(config: Config, run: RunFolder) -> Iterator[tuple[str, str]]:
    for text in run.misfits(config_to_yaml(config)):
        yield "run.dir", f"{run.path} holds another run: {text}"
    if config.run.resume == "never" and config.slurm.requeue:
        yield "run.resume", "never: a requeued job must go on from its checkpoints; set slurm.requeue: false"


def _programs(config: Config) -> Iterator[tuple[str, str]]:
    slurm = config.slurm
    if slurm.container == "none" and slurm.python and shutil.which(slurm.python) is None:
        yield "slurm.python", f"there is no program {slurm.python}"
    image = slurm.container_image
    if (
        image
        and (image.startswith(("/", "./")) or image.endswith((".sif", ".sqsh")))
        and not Path(image).exists()
    ):
        yield "slurm.container_image", f"{image} does not exist"
    for mount in slurm.container_mounts:
        source = mount.partition(":")[0]
        if not Path(source).exists():
            yield "slurm.container_mounts", f"{source} does not exist"


def _time(config: Config, run: RunFolder) -> Iterator[tuple[str, str]]:
    """A job that ends before it has saved once would begin at the same step for ever."""
    seconds, every = step_seconds(run), config.checkpoint.every
    if config.slurm.time is None or seconds is None or every is None:
        return
    limit, needed = seconds_of(config.slurm.time), every * seconds
    if limit < needed:
        most = max(1, int(limit / seconds / 2))
        yield (
            "slurm.time",
            f"{config.slurm.time} is less than the {needed:,.0f} s between checkpoints: {every} steps "
            f"(checkpoint.every) of {seconds:.3g} s, as measured in this run "
            f"(nearest legal: checkpoint.every {most})",
        )


def file_system(path: Path) -> str:
    """Type of the file system that holds a path, or would; "unknown" where the kernel does not say."""
    while not path.exists():
        path = path.parent
    device = os.stat(path).st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return rest.split()[0]
    return "unknown"
