"""From a job's description to the script for sbatch, using the templates beside this file."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from pretrain.config.sections import SlurmConfig
from pretrain.redact import write_new
from slurm.quote import for_comment, for_file_name, for_option, for_sbatch, for_shell
from slurm.tasks import Tasks

TEMPLATES = Path(__file__).with_name("templates")
Options = tuple[tuple[str, object], ...]
"""Options of sbatch without the dashes; a value of None for those that take none."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The fields that scripts of all kinds use."""

    title: str
    name: str
    slurm: SlurmConfig
    tasks: Tasks
    folder: Path
    """Folder of this submission: script, config, log."""
    log: str = "job-%j.log"
    """Name of the log in that folder, with fields of sbatch such as %j."""
    mounts: tuple[str, ...]
    """Mounts of a container, as SOURCE:TARGET."""
    exclude: str = ""
    """Nodes to exclude beside those of the config."""
    extra: Options = ()
    """Options of this kind of job."""
    directory: Path = field(default_factory=Path.cwd)
    """Working directory, so that relative paths of the config mean what they meant at submission."""

    @property
    def options(self) -> Options:
        return (*common_options(self.slurm, self.exclude), *task_options(self.slurm, self.tasks), *self.extra)

    @property
    def python(self) -> str:
        return self.slurm.python or (sys.executable if self.slurm.container == "none" else "python3")

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """Our own environment variables; those of the config come after them."""
        return variables(self.slurm)


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Job):
    """The script of a training."""

    run: Path
    wait: int
    """Seconds between the end of the first rank and that of the last, after which srun kills it."""


@dataclass(frozen=True, kw_only=True)
class BuildScript(Job):
    """The script of a part of a data build, or, without parts, of the job that follows them all."""

    command: tuple[str, ...]
    """Arguments of `pretrain`."""
    parts: int | None

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """None: its processes do not communicate."""
        return ()


@dataclass(frozen=True, kw_only=True)
class EvaluationScript(Job):
    """The script of an evaluation."""

    run: Path
    command: tuple[str, ...]
    """Arguments of `pretrain eval` after the checkpoint."""
    every_checkpoint: bool
    pause: int = 15
    """Seconds between checks for a new checkpoint."""


def show_script(text: str) -> None:
    """Print it, with file names as their raw bytes, so that the output can be saved and submitted."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.flush()


def write_script(path: Path, text: str) -> None:
    """Write it, with file names as their raw bytes. Raises FileExistsError."""
    write_new(path, text, "surrogateescape")


def render(template: str, job: Job) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # a script is not HTML; every value goes through a filter below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "word": for_shell,
        "directive": for_sbatch,
        "option": for_option,
        "one_line": for_comment,
        "log_name": lambda job: for_file_name(job.folder, job.log),
    }
    return environment.get_template(template).render(job=job)


def common_options(slurm: SlurmConfig, exclude: str) -> Options:
    """Options of every job, in the order of the section; `exclude` names further nodes."""
    excluded = ",".join(part for part in (slurm.exclude, exclude) if part)
    given: Options = (
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("time", slurm.time),
        ("constraint", slurm.constraint),
        ("exclude", excluded or None),
        ("comment", slurm.comment),
    )
    return tuple((name, value) for name, value in given if value is not None)


def task_options(slurm: SlurmConfig, tasks: Tasks) -> Options:
    """Options for the number of nodes and what the job uses of each."""
    given: Options = (
        ("nodes", tasks.nodes),
        ("ntasks-per-node", tasks.per_node),
        ("gpus-per-node", slurm.gpus_per_node),
        ("cpus-per-task", slurm.cpus_per_task),
        ("mem", slurm.memory),
    )
    exclusive: Options = (("exclusive", None),) if slurm.exclusive else ()
    return tuple((name, value) for name, value in given if value is not None) + exclusive


def variables(slurm: SlurmConfig) -> tuple[tuple[str, str], ...]:
    """The environment of processes that communicate, by GPU or by CPU."""
    if slurm.gpus_per_node is None:
        # Even on a node with GPUs, this job runs on CPUs.
        return (("CUDA_VISIBLE_DEVICES", ""), ("PYTHONUNBUFFERED", "1"))
    return (
        ("NCCL_DEBUG", "WARN"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        ("PYTHONUNBUFFERED", "1"),
    )
