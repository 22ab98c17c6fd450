"""Preflight warnings and errors: what is wrong with a job, found before it waits in a queue for a day."""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pretrain.config.load import LoadedConfig
from pretrain.config.node import ConfigError, Problem, SourceLocation
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Config, SlurmConfig
from pretrain.config.sections.slurm import seconds_of
from pretrain.config.unreached import unreached
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.tracking.record import unfit
from slurm.measured import step_seconds
from slurm.mounts import Mounts, training_mounts
from slurm.quote import unfit_for_sbatch
from slurm.tasks import Tasks

LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "ramfs", "zfs", "f2fs")
"""File systems that only one machine sees."""


def together(*checks: Callable[[], object]) -> None:
    """Run every check, and raise what they found as one error.

    Raises UserError: of one check, or of several; ConfigError if all are.
    """
    found: list[UserError] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found and all(isinstance(error, ConfigError) for error in found):
        raise ConfigError(
            [each for error in found if isinstance(error, ConfigError) for each in error.problems]
        )
    if found:
        raise UserError("\n".join(map(str, found)))


def refuse(loaded: LoadedConfig, run: RunFolder) -> None:
    """Refuse a training that could not run or resume. Raises ConfigError: everything that was found."""
    config = loaded.config
    mounts = training_mounts(config)
    found = (*_run_folder(config, run), *programs(config.slurm, mounts), *_time(config, run))
    refuse_keys(found, loaded.sources)


def require_names(folders: Mapping[str, Path], sources: Mapping[str, SourceLocation]) -> None:
    """Refuse folders that sbatch cannot take, before a script names them.

    Args:
        folders: folders for logs, by key.
        sources: locations of the keys.

    Raises:
        ConfigError: for one of them, or for the working directory.
    """
    found = [(key, unfit_for_sbatch(path, has_log=True)) for key, path in folders.items()]
    found.append(("", unfit_for_sbatch(Path.cwd(), has_log=False)))
    refuse_keys([(key, text) for key, text in found if text], sources)


def refuse_keys(found: Iterable[tuple[str, str]], sources: Mapping[str, SourceLocation]) -> None:
    """Refuse a config if anything was found, each key with what is wrong, and its location in the files."""
    other = sources["slurm.container"]  # a path that cannot be mounted may come from another file
    problems = [Problem(sources.get(re.split(r"[:[]", key)[0], other), key, text) for key, text in found]
    if problems:
        raise ConfigError(problems)


def warnings_of(config: Config, tasks: Tasks, run: RunFolder) -> Iterator[str]:
    """What may be wrong, but cannot be checked from this machine."""
    kind = file_system(run.path)
    if tasks.nodes > 1 and kind in LOCAL:
        yield f"run.dir: {run.path} lies on {kind}, which is of this machine alone; all nodes must see it"
    for key, text in unreached(config):
        yield f"{key}: {text}"
    if config.checkpoint.every is None:
        yield "checkpoint.every is null: a node that fails costs everything since the last signal"


def _run_folder(config: Config, run: RunFolder) -> Iterator[tuple[str, str]]:
    if config.tracking.enabled and (reason := unfit(run, config.tracking.uri)):
        yield "run.dir", reason
    for text in run.misfits(config_to_yaml(config)):
        yield "run.dir", f"{run.path} holds another run: {text}"
    if config.run.resume == "never" and config.slurm.requeue:
        yield "run.resume", "never: a requeued job must go on from its checkpoints; set slurm.requeue: false"


def programs(slurm: SlurmConfig, mounts: Mounts) -> Iterator[tuple[str, str]]:
    """Keys that name something that does not exist, or paths that a container cannot mount."""
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
    yield from mounts.refused


def _time(config: Config, run: RunFolder) -> Iterator[tuple[str, str]]:
    """A job that ends before it has saved once would start from the same step forever."""
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
    """Type of the file system that a path is on, or would be; "unknown" if the kernel does not say."""
    while not path.exists():
        path = path.parent
    device = os.stat(path).st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return rest.split()[0]
    return "unknown"
