"""Checks of an evaluation that need no checkpoint, for use before a job waits in a queue."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.sources import is_remote
from evals.images.options import ImageEvalOptions
from evals.scored import evaluation_of
from evals.suite import SuiteEntry, only_task
from pretrain.config.sections import Config
from pretrain.errors import UserError

if TYPE_CHECKING:
    from evals.harness.definition import Definition


def plain_entry(kind: str, data: tuple[str, ...], stride: int | None, images: ImageEvalOptions) -> SuiteEntry:
    """What `pretrain eval` scores for a kind with these options and no suite.

    Raises UserError: it scores nothing for this kind.
    """
    task = only_task(kind).entries[0].task
    return SuiteEntry.model_construct(task=task, data=data, stride=stride, **vars(images))


def misfits(entry: SuiteEntry, config: Config) -> Iterator[tuple[str, str]]:
    """Keys of an entry, each with what is wrong with it for a run of this config; its task fits the kind."""
    if entry.task == "harness":
        try:
            definitions(entry)
        except UserError as error:
            yield "tasks", str(error)
        return
    evaluation, kind = evaluation_of(config), config.model.kind
    if entry.stride is not None and "stride" not in evaluation.options:
        yield "stride", f"has no effect on a {kind}; remove it"
    for name in entry.images.given:
        if name not in evaluation.options:
            yield name, f"has no effect on a {kind}; remove it"
    if "extractor" in evaluation.options:
        try:
            entry.images.check_extractor()
        except UserError as error:
            yield "extractor", str(error)
    if evaluation.one_file and len(entry.data) > 1:
        yield "data", f"{entry.data[1]}: one file at a time; the tasks of a suite have one each"
    if not entry.data and not evaluation.scores_training and not _validates(config):
        yield "data", "the run has no validation data; name what to score"
    for key in ("data", "extractor", "inception_weights"):
        given = getattr(entry, key) or ()
        for path in (given,) if isinstance(given, str) else given:
            if not is_remote(path) and not Path(path).exists():
                yield key, f"{path} does not exist"


def _validates(config: Config) -> bool:
    """Whether the config names validation data."""
    data = getattr(config, "data", None)
    return any(getattr(data, key, None) is not None for key in ("validation", "validation_fraction"))


def definitions(entry: SuiteEntry) -> "tuple[Definition, ...]":
    """The tasks of the harness that an entry lists. Raises UserError as `find_definitions` does."""
    if entry.task != "harness":
        return ()
    from evals.harness.definition import find_definitions

    return find_definitions(entry.tasks, entry.task_folder)
