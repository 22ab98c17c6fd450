"""Rules between the keys of the section `slurm`."""

from pretrain.config.rule import Rule, unless
from pretrain.config.sections import Config
from pretrain.config.sections.slurm import seconds_of

LARGEST_SIGNAL = 65_535
"""sbatch stores the seconds of --signal in 16 bits."""

RULES: tuple[Rule[Config], ...] = (
    unless(
        "tasks per node are those of a job on CPUs",
        "slurm.tasks_per_node",
        lambda s: s.config.slurm.gpus_per_node is not None,
        "has no effect with gpus_per_node, as each GPU has one process; remove one of them",
    ),
    unless(
        "an image is for a container",
        "slurm.container_image",
        lambda s: s.config.slurm.container == "none",
        "has no effect with container none; set container: pyxis or apptainer",
    ),
    unless(
        "mounts are for a container",
        "slurm.container_mounts",
        lambda s: s.config.slurm.container == "none" and bool(s.config.slurm.container_mounts),
        "has no effect with container none; set container: pyxis or apptainer",
    ),
    unless(
        "a chain is for jobs that are not requeued",
        "slurm.chain",
        lambda s: s.config.slurm.requeue,
        "has no effect with requeue true, as one job goes on until the run is done; set requeue: false",
    ),
    Rule(
        name="a container needs an image",
        key="slurm.container_image",
        applies=lambda s: s.config.slurm.container != "none",
        holds=lambda s: s.config.slurm.container_image is not None,
        message="required with container {slurm.container}",
    ),
    Rule(
        name="the signal comes within the job",
        key="slurm.signal_seconds",
        applies=lambda s: s.config.slurm.signal_seconds is not None,
        holds=lambda s: (
            (s.config.slurm.signal_seconds or 0)
            < (seconds_of(s.config.slurm.time) if s.config.slurm.time else LARGEST_SIGNAL)
        ),
        message=lambda s: (
            f"{s.config.slurm.signal_seconds} s before the limit is before the start of a job of "
            f"{s.config.slurm.time or f'at most {LARGEST_SIGNAL} s of warning'}"
        ),
    ),
)
"""Legal on purpose: `max_restarts` with `requeue: false`, as it also limits a chain."""
