"""`pretrain submit` for data builds: an array of parts, and a job after them for what needs them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_tools.bad_records import parse_bad_records
from data_tools.builder import BuildOptions
from data_tools.clean.options import CleanOptions
from data_tools.divided import Divided
from data_tools.images.builder import ImageBuildOptions
from data_tools.parts import Options, divide, missing_parts
from data_tools.workspace import require_free
from pretrain.config.node import SourceLocation
from pretrain.config.sections import SlurmConfig
from slurm.before import programs, refuse_keys, require_names, together
from slurm.client import sbatch
from slurm.mounts import Mounts, container_mounts, named_paths
from slurm.render import (
    BuildScript,
    render,
    show_script,
    write_script,
)
from slurm.sections import (
    BuildSection,
    CleanJob,
    ImagesJob,
    ImagesSection,
    TextJob,
    read_job,
)
from slurm.submission import FOLDER, new_folder
from slurm.tasks import Tasks

GLOB = frozenset("*?[")
BUILDS: Mapping[str, tuple[Any, Any]] = {
    "build": (TextJob, BuildOptions),
    "clean": (CleanJob, CleanOptions),
    "images": (ImagesJob, ImageBuildOptions),
}
"""The job of a file's section, and what it does as one process."""
USELESS = ("nodes", "gpus_per_node", "tasks_per_node", "chain")


@dataclass(frozen=True)
class _Build:
    section: BuildSection
    slurm: SlurmConfig
    sources: Mapping[str, SourceLocation]
    options: Options
    command: tuple[str, ...]
    """The arguments of `pretrain` that do it as one process."""
    last: str
    """What the job after the parts does."""

    @property
    def mounts(self) -> Mounts:
        """What its container mounts; for a glob, the folder in which it matches."""
        name = self.command[1]
        own = (("", Path.cwd()), (f"{name}.output", Path(self.section.output).absolute().parent))
        found = named_paths(self.section, f"{name}.")
        named = (replace(each, path=_without_glob(each.path)) for each in found)
        return container_mounts(self.slurm, own, named)


def submit_build(
    name: str, path: str, overrides: Sequence[str], cluster: str | None, *, dry_run: bool
) -> None:
    """Submit a build of shards, or a cleaning. Raises UserError for the file, the input or the output.

    name: of the file's section, and of the command `pretrain data NAME`.
    """
    top, options = BUILDS[name]
    job, sources = read_job(top, path, overrides, cluster, USELESS)
    section: BuildSection = getattr(job, name)
    last = "the duplicates" if name == "clean" else "the index"
    command = _command(name, section, job.slurm)
    build = _Build(section, job.slurm, sources, options(**_options(section)), command, last)
    _submit(build, dry_run=dry_run)


def _submit(build: _Build, *, dry_run: bool) -> None:
    """Submit the parts that still have work to do: a build that failed in part can be submitted again
    unchanged."""
    output, tasks = build.section.output, build.section.tasks
    folder = Path(f"{output}.{FOLDER}").absolute()
    require_names({f"{build.command[1]}.output": folder}, build.sources)
    if dry_run:
        show_script("\n".join(_texts(build, folder, list(range(1, tasks + 1))).values()))
    looked: list[Divided[Any]] = []
    together(
        lambda: refuse_keys(programs(build.slurm, build.mounts), build.sources),
        lambda: looked.append(_looked_at(build)),
    )
    if dry_run:
        return
    parts = missing_parts(looked[0], tasks)
    if parts is None:
        print(f"{output}: this build is finished; there is nothing to submit")
        return
    folder = new_folder(folder, "")
    texts = _texts(build, folder, parts)
    for name, text in texts.items():
        write_script(folder / f"{name}.sbatch", text)
    after = []
    if parts:
        after = [f"--dependency=afterok:{sbatch(folder / 'parts.sbatch')}", "--kill-on-invalid-dep=yes"]
        print(f"{after[0].rpartition(':')[2]}: {len(parts)} of {tasks} parts have something to do")
    print(f"job {sbatch(folder / 'index.sbatch', *after)} does {build.last} after them; logs in {folder}")


def _looked_at(build: _Build) -> Divided[Any]:
    """The build's partitions, found without writing anything. Raises UserError for the input or the
    output."""
    divided = divide(build.options)
    require_free(divided.output, divided.plan, divided.layout)
    return divided


def _texts(build: _Build, folder: Path, parts: list[int]) -> dict[str, str]:
    array = (("array", ",".join(map(str, parts))),)
    scripts = {
        "parts": _script(build, folder, build.section.tasks, array),
        "index": _script(build, folder, None, ()),
    }
    return {name: render("build.sbatch.j2", script) for name, script in scripts.items()}


def _without_glob(path: Path) -> Path:
    """The path, or for a glob the folder in which it matches."""
    while GLOB & set(str(path)) and not path.exists():
        path = path.parent
    return path


def _script(
    build: _Build, folder: Path, parts: int | None, array: tuple[tuple[str, object], ...]
) -> BuildScript:
    output = build.section.output
    return BuildScript(
        title=f"{output}: {f'one of {parts} parts' if parts else build.last}",
        name=f"{Path(output).name}-{'part' if parts else 'index'}",
        slurm=build.slurm,
        tasks=Tasks(1, 1),
        folder=folder,
        log="part-%A-%a.log" if parts else "index-%j.log",
        mounts=build.mounts.texts,
        extra=array,
        command=build.command,
        parts=parts,
    )


def _command(name: str, build: BuildSection, slurm: SlurmConfig) -> tuple[str, ...]:
    """A build as a command line; keys without a value, and flags that are off by default, are omitted."""
    own = build.model_dump(exclude={"input", "output", "tasks", "workers", "bad_records"})
    words = [f"--input={text}" for text in build.input]
    words += [f"--output={build.output}", f"--workers={build.workers or slurm.cpus_per_task or 1}"]
    words += [f"--bad-records={build.bad_records}"]
    for key, value in own.items():
        option = key.replace("_", "-")
        if isinstance(value, bool):
            words += (
                []
                if value == type(build).model_fields[key].default
                else [f"--{'' if value else 'no-'}{option}"]
            )
        elif isinstance(value, tuple):
            words += [f"--{option}={each}" for each in value or ("none",)]
        elif value is not None:
            words.append(f"--{option}={value}")
    return ("data", name, *words)


def _options(build: BuildSection) -> dict[str, Any]:
    """The arguments of a builder, most of which have the names of the section's keys."""
    same = build.model_dump(exclude={"input", "tasks", "workers", "bad_records"})
    if isinstance(build, ImagesSection):
        same |= {"encoding": same.pop("format"), "labels": build.labels == "auto"}
    return {"inputs": build.input, "max_bad_records": parse_bad_records(build.bad_records), **same}
