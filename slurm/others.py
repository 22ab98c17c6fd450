"""`pretrain submit` for what is no training: a data build, and an evaluation."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from data_tools.bad_records import parse_bad_records
from data_tools.builder import BuildOptions
from data_tools.parts import missing_parts
from pretrain.config.load import read_section
from pretrain.config.node import ConfigError, Problem
from pretrain.config.rule import Setup, broken_rules
from pretrain.config.rules.slurm import RULES
from pretrain.errors import UserError
from pretrain.folder import RunFolder
from slurm.client import find_job, sbatch
from slurm.render import (
    BuildScript,
    EvaluationScript,
    common_options,
    mounts,
    python_of,
    render,
    task_options,
    variables,
)
from slurm.sections import BuildJob, BuildSection, EvaluationJob, EvaluationSection
from slurm.submission import FOLDER, new_folder, submissions
from slurm.tasks import Tasks

J = TypeVar("J", BuildJob, EvaluationJob)


def submit_build(path: str, overrides: Sequence[str], cluster: str | None, *, dry_run: bool) -> None:
    """Send a data build: an array of parts, and a job after them that writes the index.

    Only parts with something to do are sent, so a build that failed in part is submitted again as it is.

    Raises:
        UserError: something is wrong with the file, the input or the output.
    """
    job = _read(BuildJob, path, overrides, cluster, ("nodes", "gpus_per_node", "tasks_per_node", "chain"))
    options = _build_options(job)
    folder = Path(f"{job.build.output}.{FOLDER}").absolute()
    parts = list(range(1, job.build.tasks + 1))
    if not dry_run:
        missing = missing_parts(options, job.build.tasks)
        if missing is None:
            print(f"{job.build.output}: this build is finished; there is nothing to submit")
            return
        parts, folder = missing, new_folder(folder, "")
    array = (("array", ",".join(map(str, parts))),)
    scripts = {
        "parts": _build_script(job, folder, job.build.tasks, array),
        "index": _build_script(job, folder, None, ()),
    }
    texts = {name: render("build.sbatch.j2", script) for name, script in scripts.items()}
    if dry_run:
        sys.stdout.write("\n".join(texts.values()))
        return
    for name, text in texts.items():
        (folder / f"{name}.sbatch").write_text(text)
    after = []
    if parts:
        after = [f"--dependency=afterok:{sbatch(folder / 'parts.sbatch')}", "--kill-on-invalid-dep=yes"]
        print(f"{after[0].rpartition(':')[2]}: {len(parts)} of {job.build.tasks} parts have something to do")
    print(f"job {sbatch(folder / 'index.sbatch', *after)} writes the index after them; logs in {folder}")


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
    job = _read(EvaluationJob, path, overrides, cluster, ("chain",))
    if after is not None and job.evaluation.run is not None:
        raise UserError(f"--after {after}: evaluation.run names {job.evaluation.run} already; leave out one")
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
    (folder / "job.sbatch").write_text(text)
    sent = sbatch(folder / "job.sbatch", *([f"--dependency=afterany:{waits}"] if waits else []))
    print(f"job {sent} evaluates {run.path}{f' after job {waits}' if waits else ''}; log in {folder}")


def _read(
    top: type[J], path: str, overrides: Sequence[str], cluster: str | None, useless: Sequence[str]
) -> J:
    """The file, with the rules of its section `slurm`, and without what a cluster's file says of trainings.

    Args:
        top: its sections.
        path: the file.
        overrides: `section.key=value` texts.
        cluster: file that lies under it.
        useless: keys of `slurm` without effect here; given in the file itself they are refused.
    """
    job, sources = read_section(top, path, overrides, cluster)
    problems = [violation.problem(sources) for violation in broken_rules(RULES, Setup(cast(Any, job), None))]
    for key in useless:
        place = sources[f"slurm.{key}"]
        if place.layer in ("file", "command line"):
            problems.append(Problem(place, f"slurm.{key}", "has no effect on this job; remove it"))
    if problems:
        raise ConfigError(problems)
    unset = {key: type(job.slurm).model_fields[key].default for key in useless}
    return job.model_copy(update={"slurm": job.slurm.model_copy(update=unset)})


def _build_options(job: BuildJob) -> BuildOptions:
    build = job.build
    return BuildOptions(
        inputs=build.input,
        tokenizer=build.tokenizer,
        output=build.output,
        max_bad_records=parse_bad_records(build.bad_records),
        text_key=build.text_key,
        document=build.document,
        input_format=build.input_format,
        sentences=build.sentences,
    )


def _build_command(build: BuildSection, workers: int) -> tuple[str, ...]:
    """The same build as a command line."""
    given: Mapping[str, object] = {
        "tokenizer": build.tokenizer,
        "output": build.output,
        "workers": workers,
        "text-key": build.text_key,
        "document": build.document,
        "input-format": build.input_format,
        "sentences": build.sentences,
        "bad-records": build.bad_records,
    }
    inputs = tuple(f"--input={text}" for text in build.input)
    return ("data", "build", *inputs, *(f"--{name}={value}" for name, value in given.items()))


def _build_script(
    job: BuildJob, folder: Path, parts: int | None, array: tuple[tuple[str, object], ...]
) -> BuildScript:
    slurm, directory, tasks = job.slurm, Path.cwd(), Tasks(1, 1)
    return BuildScript(
        title=f"shards in {job.build.output}: {f'one of {parts} parts' if parts else 'the index'}",
        name=f"{Path(job.build.output).name}-{'part' if parts else 'index'}",
        slurm=slurm,
        options=(*common_options(slurm), *task_options(slurm, tasks), *array),
        directory=directory,
        folder=folder,
        log="part-%A-%a.log" if parts else "index-%j.log",
        python=python_of(slurm),
        mounts=mounts(slurm, directory, folder.parent),
        variables=(),
        tasks=tasks,
        command=_build_command(job.build, job.build.workers or slurm.cpus_per_task or 1),
        parts=parts,
    )


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


def _evaluation_options(evaluation: EvaluationSection) -> tuple[str, ...]:
    stride = () if evaluation.stride is None else (f"--stride={evaluation.stride}",)
    return (*stride, *(f"--data={path}" for path in evaluation.data))


def _running_job(run: RunFolder) -> str | None:
    """The run's job that has not ended, if there is one."""
    for submission in reversed(submissions(run.path)):
        job = find_job(submission.job) if submission.job else None
        if job is not None and job.is_active:
            return submission.job
    return None
