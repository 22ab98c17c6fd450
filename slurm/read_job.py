"""Reads a file for `pretrain submit` that is not a training."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pretrain.config.load import read_section
from pretrain.config.node import ConfigError, Problem, SourceLocation
from pretrain.config.rule import Setup, broken_rules
from pretrain.config.rules.service import SLURM
from slurm.sections import CleanJob, EvaluationJob, ImagesJob, TextJob

J = TypeVar("J", TextJob, CleanJob, ImagesJob, EvaluationJob)


def read_job(
    top: type[J], path: str, overrides: Sequence[str], cluster: str | None, useless: Sequence[str]
) -> tuple[J, Mapping[str, SourceLocation]]:
    """The file and the location of each key, with the rules of its section `slurm`.

    Keys about trainings in a cluster's file are ignored.

    Args:
        cluster: file with defaults for its section `slurm`.
        useless: keys of `slurm` without effect here; in the file itself they are refused.
    """
    job, sources = read_section(top, path, overrides, cluster)
    problems = [violation.problem(sources) for violation in broken_rules(SLURM, Setup(cast(Any, job), None))]
    for key in useless:
        location = sources[f"slurm.{key}"]
        if location.layer in ("file", "command line"):
            problems.append(Problem(location, f"slurm.{key}", "has no effect on this job; remove it"))
    if problems:
        raise ConfigError(problems)
    unset = {key: type(job.slurm).model_fields[key].default for key in useless}
    return job.model_copy(update={"slurm": job.slurm.model_copy(update=unset)}), sources
