"""Keys of the section `slurm`: how `pretrain submit` turns a config into a job.

A value becomes a word of a script (`slurm.quote`); what the script sets by itself may not be set twice.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from pretrain.config.sections.resume import may_change
from pretrain.config.sections.section import Count, Name, PathText, Section, Texts

TIME = re.compile(r"((\d+)-)?(\d+(:\d+){0,2})")
OPTIONS_OF = {
    "run.dir": "job-name J output o error e chdir D open-mode",
    "slurm.partition": "partition p",
    "slurm.account": "account A",
    "slurm.qos": "qos q",
    "slurm.nodes": "nodes N ntasks n",
    "slurm.tasks_per_node": "ntasks-per-node",
    "slurm.cpus_per_task": "cpus-per-task c",
    "slurm.gpus_per_node": "gres gpus G gpus-per-node",
    "slurm.memory": "mem",
    "slurm.exclusive": "exclusive",
    "slurm.time": "time t",
    "slurm.constraint": "constraint C",
    "slurm.exclude": "exclude x",
    "slurm.comment": "comment",
    "slurm.signal_seconds": "signal",
    "slurm.requeue": "requeue no-requeue",
    "slurm.chain": "array a",
}
"""Key -> options of sbatch that it sets or decides."""
OWN_OPTIONS = {option: key for key, options in OPTIONS_OF.items() for option in options.split()}


def _time(text: str) -> str:
    seconds_of(text)
    return text


def _directive(text: str) -> str:
    match = re.fullmatch(r"(?:--(?P<long>[a-z][a-z-]*)|-(?P<short>[A-Za-z])).*", text)
    if match is None:
        raise ValueError("must be an option of sbatch such as --mail-type=END")
    key = OWN_OPTIONS.get(match["long"] or match["short"])
    if key is not None:
        raise ValueError(f"'{text}' is set by {key}")
    return text


def _assignment(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", text, re.DOTALL):
        raise ValueError("must be NAME=value")
    if text.startswith("SLURM_"):
        raise ValueError(f"{text.partition('=')[0]} is Slurm's own")
    return text


def seconds_of(time: str) -> int:
    """Seconds of a time limit as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises ValueError: it is none of these.
    """
    match = TIME.fullmatch(time)
    if match is None:
        raise ValueError("must be a time such as 12:00:00 or 2-00:00:00")
    parts = [int(part) for part in match[3].split(":")]
    first = 60 if match[2] is None and len(parts) < 3 else 3600
    units = (first, first // 60, first // 3600)
    days = int(match[2] or 0)
    return days * 86_400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


TimeLimit = Annotated[Name, AfterValidator(_time)]
Directive = Annotated[Name, AfterValidator(_directive)]
Assignment = Annotated[Name, AfterValidator(_assignment)]


class SlurmConfig(Section):
    """How `pretrain submit` runs a config on a Slurm cluster. `pretrain train` by itself reads none of it."""

    RESUME = may_change("says where a run runs, not what to train")

    partition: Name | None = None
    """Partition; null: the cluster's default."""
    account: Name | None = None
    """Account to charge."""
    qos: Name | None = None
    """Quality of service."""
    nodes: Count | None = None
    """Nodes; null: as few as hold one replica of the model."""
    gpus_per_node: Count | None = None
    """GPUs that each node gives to the job, with one process for each; null: the job runs on CPUs."""
    tasks_per_node: Count | None = None
    """Processes on each node of a job on CPUs; null: 1. Only without `gpus_per_node`."""
    cpus_per_task: Count | None = None
    """CPU cores of a process, and its OMP_NUM_THREADS; null: what the cluster gives, and 1 thread."""
    memory: Name | None = None
    """Memory per node, such as 200G; "0": all of it."""
    exclusive: bool = False
    """Share the nodes with no other job."""
    time: TimeLimit | None = None
    """Time limit: minutes, hours:minutes:seconds or days-hours:minutes:seconds, in quotation marks; null: the
    partition's. The run may take longer: it is saved before the limit and goes on in the next job."""
    signal_seconds: Count | None = None
    """Seconds before the limit at which the run is saved; null: three times the longest save so far, at least
    120."""
    constraint: Name | None = None
    """Features that nodes must have."""
    exclude: Name | None = None
    """Nodes never to use, as Slurm writes lists of hosts: gpu[07,12-14]."""
    comment: Name | None = None
    """Comment of the job."""
    directives: Annotated[tuple[Directive, ...], Texts] = ()
    """More options of sbatch, such as ["--mail-type=END"]."""
    modules: Annotated[tuple[Name, ...], Texts] = ()
    """Environment modules to load, in this order."""
    environment: Annotated[tuple[Assignment, ...], Texts] = ()
    """Variables for all processes of the job: ["NAME=value"]. Nothing in a value is expanded."""
    python: PathText | None = None
    """Python of the job; null: the one that submits, in a container `python3`."""
    container: Literal["none", "pyxis", "apptainer"] = "none"
    """How processes get into a container: none, by srun --container-image (pyxis), or by apptainer exec."""
    container_image: Name | None = None
    """Image: what pyxis calls one (a .sqsh file, or REGISTRY#NAME:TAG), or a .sif file for apptainer."""
    container_mounts: Annotated[tuple[PathText, ...], Texts] = ()
    """What the container sees under the same path, beside the working directory, the run folder and every
    path that the config names; SOURCE:TARGET for another path."""
    requeue: bool = True
    """The job goes back into the queue when it stops early with a checkpoint, or loses a node."""
    chain: Count | None = None
    """Where a cluster forbids requeueing: this many jobs, one after the other, each going on with the run.
    Only with requeue: false."""
    max_restarts: Count = 100
    """Restarts of one submission before it stops for good."""
    preflight: bool = True
    """Try devices, memory, links, disks, clocks and versions of all nodes before training; a bad node is left
    out of the job from then on."""
