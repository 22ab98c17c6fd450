"""`pretrain submit`: checks everything that can be checked before the queue, then submits a script."""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.counts import counted
from pretrain.commands.check import check_data
from pretrain.config.load import LoadedConfig, load_config, read_config, sections_in
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import Config
from pretrain.errors import UserError, machine_error
from pretrain.redact import write_new
from pretrain.run.folder import RunFolder
from slurm.before import refuse, require_names, together, warnings_of
from slurm.client import find_job, is_here, sbatch
from slurm.measured import signal_seconds
from slurm.mounts import training_mounts
from slurm.quote import for_comment
from slurm.render import (
    TrainingJob,
    render,
    show_script,
    write_script,
)
from slurm.submission import FOLDER, Submission, bad_nodes, new_submission, submissions
from slurm.tasks import Tasks, tasks_of

WAIT_SECONDS = 15
"""Between the end of the first rank and that of the last: rank 0 must have told MLflow how the run ended."""


def submit_command(
    path: str, overrides: Sequence[str], cluster: str | None, after: str | None, *, dry_run: bool
) -> None:
    """Submit a training, a data build or an evaluation to Slurm, or print its script.

    Args:
        path: config file; its sections tell what it is for.
        cluster: file with defaults for the config's section `slurm`; None: the config is complete.
        after: run to evaluate; None: that of the file, or no evaluation.
        dry_run: print the script and submit nothing; errors are raised after printing.

    Raises:
        UserError: the job could not run; everything that is wrong, at once if possible.
    """
    sections = sections_in(path)
    if "evaluation" in sections:
        from slurm.evaluation import submit_evaluation

        submit_evaluation(path, overrides, cluster, after, dry_run=dry_run)
        return
    if after is not None:
        raise UserError(f"--after {after}: is for an evaluation; {path} has no section `evaluation`")
    build = next((name for name in ("build", "clean", "images") if name in sections), None)
    if build is None:
        submit_training(path, overrides, cluster, dry_run=dry_run)
        return
    from slurm.build import submit_build

    submit_build(build, path, overrides, cluster, dry_run=dry_run)


def submit_training(path: str, overrides: Sequence[str], cluster: str | None, *, dry_run: bool) -> None:
    """Submit a training to Slurm, or print its script. Arguments and errors as above."""
    read = read_config(path, overrides, under=cluster)
    tasks = tasks_of(read.config.slurm, read.config.replica_ranks)
    loaded = load_config(path, overrides, tasks.total, under=cluster)
    run = RunFolder(loaded.config.run.dir)
    require_names({"run.dir": run.path}, loaded.sources)
    if dry_run:
        show_script(render("train.sbatch.j2", training_job(loaded.config, tasks, run.path / FOLDER / "NNNN")))
    together(
        lambda: check_data(loaded, tasks.total),
        lambda: refuse(loaded, run),
        lambda: _refuse_second_job(run),
    )
    for doubt in warnings_of(loaded.config, tasks, run):
        print(f"warning: {doubt}", file=sys.stderr)
    if dry_run:
        return
    submission = new_submission(run.path)
    job = _send(submission, loaded, tasks)
    print(
        f"job {job}: {counted(tasks.nodes, 'node')} x {counted(tasks.per_node, 'process')}, script "
        "and config in "
        f"{submission.path}\n"
        f"pretrain status {run.quoted}   pretrain logs {run.quoted}   pretrain cancel {run.quoted}"
    )


def training_job(config: Config, tasks: Tasks, folder: Path) -> TrainingJob:
    """The fields of a training's script.

    Args:
        tasks: nodes and processes.
        folder: folder of the submission.
    """
    slurm, run = config.slurm, RunFolder(config.run.dir).path
    unit = "GPUs" if slurm.gpus_per_node else "processes"
    extra = (
        ("signal", f"B:USR1@{signal_seconds(config, RunFolder(run))}"),
        ("requeue" if slurm.requeue else "no-requeue", None),
        *((("array", f"1-{slurm.chain}%1"),) if slurm.chain else ()),
    )
    return TrainingJob(
        title=f"{config.model.kind} in {run}, nodes x {unit}: {tasks.nodes} x {tasks.per_node}",
        name=run.name,
        slurm=slurm,
        tasks=tasks,
        folder=folder,
        mounts=training_mounts(config).texts,
        exclude=",".join(bad_nodes(run)),
        extra=extra,
        run=run,
        wait=WAIT_SECONDS,
    )


def _send(submission: Submission, loaded: LoadedConfig, tasks: Tasks) -> str:
    title = for_comment(f"# {loaded.path}, with every key")
    write_new(submission.config, f"{title}\n{config_to_yaml(loaded.config)}")
    script = render("train.sbatch.j2", training_job(loaded.config, tasks, submission.path))
    write_script(submission.script, script)
    job = sbatch(submission.script)
    try:
        submission.sent(job)
    except OSError as error:
        raise UserError(
            f"{machine_error(error) or error}; job {job} was sent all the same, and `scancel {job}` ends it"
        ) from None
    return job


def _refuse_second_job(run: RunFolder) -> None:
    """Refuse to submit a second active job of a run: they would wait for each other's lock."""
    for submission in submissions(run.path):
        job = find_job(submission.job) if submission.job and is_here() else None
        if job is not None and job.is_active:
            raise UserError(
                f"job {job.id} of this run is {job.state.lower()}; `pretrain cancel {run.quoted}` "
                "first, or choose another run.dir",
                "run.dir",
            )
