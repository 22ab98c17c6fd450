"""`pretrain submit` for an evaluation: once a run's job has ended, or of each checkpoint as it comes."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.errors import UserError
from pretrain.folder import RunFolder
from pretrain.tracking.redact import write_new
from slurm.client import find_job, sbatch
from slurm.read_job import read_job
from slurm.render import (
    EvaluationScript,
    common_options,
    mounts,
    python_of,
    render,
    task_options,
    variables,
)
from slurm.sections import EvaluationJob, EvaluationSection
from slurm.submission import FOLDER, new_folder, submissions
from slurm.tasks import Tasks

OPTIONS = ("stride", "extractor", "inception_weights", "inception_sha256", "resize", "samples", "seed")
"""Keys of the section that are options of `pretrain eval`."""


def submit_evaluation(
    path: str, overrides: Sequence[str], cluster: str | None, after: str | None, *, dry_run: bool
) -> None:
    """Send an evaluation: of every checkpoint as it comes, or of the newest once the run's job has ended.

    Args:
        path: config file.
        overrides: `section.key=value` texts.
        cluster: file that lies under it.
        after: run directory; None: that of the config.
        dry_run: print the script and send nothing.

    Raises:
        UserError: something is wrong with the file, or no run is named.
    """
    job = read_job(EvaluationJob, path, overrides, cluster, ("chain",))
    if after is not None and job.evaluation.run is not None:
        raise UserError(f"--after {after}: evaluation.run names {job.evaluation.run} already; leave out one")
    _refuse_beside_suite(path, job.evaluation)
    name = after or job.evaluation.run
    if name is None:
        raise UserError(f"{path}: name the run to evaluate: --after RUN, or evaluation.run")
    run = RunFolder(name)
    waits = None if job.evaluation.every_checkpoint else _running_job(run)
    if not dry_run and not submissions(run.path):
        run.require_run()
    folder = run.path / FOLDER / "eval-NNNN" if dry_run else new_folder(run.path / FOLDER, "eval-")
    text = render("evaluate.sbatch.j2", _evaluation_script(job, run, folder))
    if dry_run:
        sys.stdout.write(text)
        return
    write_new(folder / "job.sbatch", text)
    sent = sbatch(folder / "job.sbatch", *([f"--dependency=afterany:{waits}"] if waits else []))
    print(f"job {sent} evaluates {run.path}{f' after job {waits}' if waits else ''}; log in {folder}")


def _evaluation_script(job: EvaluationJob, run: RunFolder, folder: Path) -> EvaluationScript:
    slurm, directory = job.slurm, Path.cwd()
    tasks = Tasks(slurm.nodes or 1, slurm.gpus_per_node or slurm.tasks_per_node or 1)
    return EvaluationScript(
        title=f"evaluation of {run.path}",
        name=f"{run.path.name}-eval",
        slurm=slurm,
        options=(*common_options(slurm), *task_options(slurm, tasks)),
        directory=directory,
        folder=folder,
        log="job-%j.log",
        python=python_of(slurm),
        mounts=mounts(slurm, directory, run.path),
        variables=variables(slurm),
        run=run.path,
        tasks=tasks,
        command=_evaluation_options(job.evaluation),
        every_checkpoint=job.evaluation.every_checkpoint,
    )


def _refuse_beside_suite(path: str, evaluation: EvaluationSection) -> None:
    """A suite's tasks say themselves what they score."""
    given = [name for name in ("data", *OPTIONS) if getattr(evaluation, name) not in (None, ())]
    if evaluation.suite is not None and given:
        raise UserError(
            f"{path}: evaluation.{given[0]} has no effect with evaluation.suite, whose tasks say it"
        )


def _evaluation_options(evaluation: EvaluationSection) -> tuple[str, ...]:
    given = {name: getattr(evaluation, name) for name in OPTIONS}
    options = (f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None)
    suite = () if evaluation.suite is None else (f"--suite={evaluation.suite}",)
    return (*suite, *options, *(f"--data={path}" for path in evaluation.data))


def _running_job(run: RunFolder) -> str | None:
    """The run's job that has not ended, if there is one."""
    for submission in reversed(submissions(run.path)):
        job = find_job(submission.job) if submission.job else None
        if job is not None and job.is_active:
            return submission.job
    return None
