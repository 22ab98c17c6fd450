"""`pretrain submit` for an evaluation: once a run's job has ended, or for each checkpoint as it is saved."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from evals.before import definitions, misfits, plain_entry
from evals.suite import SuiteEntry, load_suite
from pretrain.config.load import read_config
from pretrain.config.sections import Config
from pretrain.errors import UserError
from pretrain.kinds import kind_of
from pretrain.run.folder import RunFolder
from slurm.before import programs, refuse_keys, require_names, together
from slurm.client import find_job, is_here, sbatch
from slurm.mounts import Mounts, NamedPath, container_mounts, named_paths
from slurm.render import (
    EvaluationScript,
    render,
    show_script,
    write_script,
)
from slurm.sections import EvaluationJob, EvaluationSection, read_job
from slurm.submission import FOLDER, has_checkpoint, new_folder, submissions
from slurm.tasks import Tasks

OPTIONS = ("stride", "extractor", "inception_weights", "inception_sha256", "resize", "samples", "seed")
"""Keys of the section that are options of `pretrain eval`."""


def submit_evaluation(
    path: str, overrides: Sequence[str], cluster: str | None, after: str | None, *, dry_run: bool
) -> None:
    """Submit an evaluation: of every checkpoint as it is saved, or of the newest once the run's job has
    ended.

    Args:
        cluster: file with defaults for its section `slurm`.
        after: run directory; None: that of the config.
        dry_run: print the script and submit nothing; errors are raised after printing.

    Raises:
        UserError: something is wrong with the file, or no run is named.
    """
    job, sources = read_job(EvaluationJob, path, overrides, cluster, ("chain",))
    if after is not None and job.evaluation.run is not None:
        raise UserError(f"--after {after}: evaluation.run names {job.evaluation.run} already; leave out one")
    _refuse_beside_suite(path, job.evaluation)
    name = after or job.evaluation.run
    if name is None:
        raise UserError(f"{path}: name the run to evaluate: --after RUN, or evaluation.run")
    run = RunFolder(name)
    require_names({"evaluation.run": run.path}, sources)
    if dry_run:
        script = _evaluation_script(job, run, run.path / FOLDER / "eval-NNNN")
        show_script(render("evaluate.sbatch.j2", script))
    together(
        lambda: refuse_keys(programs(job.slurm, _mounts(job, run)), sources),
        lambda: refuse_keys(_misfits(job.evaluation, run), sources),
        lambda: _require_checkpoint(job.evaluation, run),
    )
    if dry_run:
        return
    waits = None if job.evaluation.every_checkpoint else _running_job(run)
    folder = new_folder(run.path / FOLDER, "eval-")
    write_script(folder / "job.sbatch", render("evaluate.sbatch.j2", _evaluation_script(job, run, folder)))
    sent = sbatch(folder / "job.sbatch", *([f"--dependency=afterany:{waits}"] if waits else []))
    print(f"job {sent} evaluates {run.path}{f' after job {waits}' if waits else ''}; log in {folder}")


def _config_of(run: RunFolder) -> Config | None:
    """A run's config: the one that it began with, or else the one last submitted; None if there is
    neither."""
    found = [run.resolved] if run.is_run else [each.config for each in reversed(submissions(run.path))]
    there = next((path for path in found if path.is_file()), None)
    return None if there is None else read_config(str(there), saved=True).config


def _entries(evaluation: EvaluationSection, config: Config) -> Iterator[tuple[str, SuiteEntry]]:
    """What to score, each with the prefix of its keys. Raises UserError if there is no such task."""
    if evaluation.suite is None:
        data, stride = evaluation.data, evaluation.stride
        yield "evaluation", plain_entry(config.model.kind, data, stride, evaluation.images)
        return
    suite = load_suite(evaluation.suite)
    if wrong := suite.misfit(config.model.kind):
        raise UserError(wrong)
    for number, entry in enumerate(suite.entries):
        yield f"evaluation.suite: {evaluation.suite}: tasks.{number}", entry


def _misfits(evaluation: EvaluationSection, run: RunFolder) -> Iterator[tuple[str, str]]:
    """Keys, and why this run cannot be scored with them; an extractor that exists here must be a
    classifier."""
    config = _config_of(run)
    if config is None:
        run.require_run()
        return
    for key, entry in _entries(evaluation, config):
        yield from ((f"{key}.{name}", text) for name, text in misfits(entry, config))
        extractor = None if entry.extractor is None else _config_of(RunFolder(entry.extractor))
        if extractor is not None and not _is_extractor(extractor):
            text = (
                f"{entry.extractor} is a {extractor.model.kind}, not a classifier of images (model.kind cnn)"
            )
            yield f"{key}.extractor", text


def _is_extractor(config: Config) -> bool:
    evaluation = kind_of(config).evaluation
    return evaluation is not None and evaluation.is_extractor


def _require_checkpoint(evaluation: EvaluationSection, run: RunFolder) -> None:
    """Refuse a run that has nothing to score, now or once its job has ended."""
    if evaluation.every_checkpoint or has_checkpoint(run.path) or not run.path.exists():
        return
    if submissions(run.path) and not is_here():
        return  # without Slurm, whether a job is queued is unknown
    if _running_job(run) is None:
        raise UserError(
            f"{run.path}: the run has no checkpoint, and no job of it waits or runs; send one first, or set "
            "evaluation.every_checkpoint, which waits for checkpoints"
        )


def _mounts(job: EvaluationJob, run: RunFolder) -> Mounts:
    """What a container mounts: the paths named in the file, its suite and the run's config."""
    own = (("", Path.cwd()), ("evaluation.run", run.path))
    return container_mounts(job.slurm, own, _named(job.evaluation, run))


def _named(evaluation: EvaluationSection, run: RunFolder) -> Iterator[NamedPath]:
    yield from named_paths(evaluation, "evaluation.")
    config = _config_of(run)
    if config is not None:
        yield from named_paths(config)
    with suppress(UserError):  # `_misfits` reports it
        for entry in load_suite(evaluation.suite).entries if evaluation.suite else ():
            yield from named_paths(entry, "evaluation.suite: ")
            for definition in definitions(entry):
                yield from (NamedPath("evaluation.suite", path.absolute()) for path in definition.files)


def _evaluation_script(job: EvaluationJob, run: RunFolder, folder: Path) -> EvaluationScript:
    slurm = job.slurm
    tasks = Tasks(slurm.nodes or 1, slurm.gpus_per_node or slurm.tasks_per_node or 1)
    return EvaluationScript(
        title=f"evaluation of {run.path}",
        name=f"{run.path.name}-eval",
        slurm=slurm,
        tasks=tasks,
        folder=folder,
        mounts=_mounts(job, run).texts,
        run=run.path,
        command=_evaluation_options(job.evaluation),
        every_checkpoint=job.evaluation.every_checkpoint,
    )


def _refuse_beside_suite(path: str, evaluation: EvaluationSection) -> None:
    """Refuse options together with a suite: its tasks say themselves what they score."""
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
