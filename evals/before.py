"""What is wrong with an evaluation and needs no checkpoint to be seen: before a job waits in a queue."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data_tools.sources import is_remote
from evals.images.options import ImageOptions
from evals.suite import Entry, only_task
from pretrain.config.sections import ChatConfig, Config, FinetuneConfig, GanConfig, GptConfig
from pretrain.errors import UserError

if TYPE_CHECKING:
    from evals.harness.definition import Definition


def plain_entry(kind: str, data: tuple[str, ...], stride: int | None, images: ImageOptions) -> Entry:
    """What `pretrain eval` scores of a kind with these options and no suite.

    Raises UserError: it scores none of the kind.
    """
    task = only_task(kind).entries[0].task
    return Entry.model_construct(task=task, data=data, stride=stride, **vars(images))


def misfits(entry: Entry, config: Config) -> Iterator[tuple[str, str]]:
    """Keys of an entry, and what is wrong with each for a run of this config; its task fits the kind."""
    if entry.task == "harness":
        try:
            definitions(entry)
        except UserError as error:
            yield "tasks", str(error)
        return
    kind = config.model.kind
    if entry.stride is not None and not isinstance(config, GptConfig):
        yield "stride", f"has no effect on a {kind}; remove it"
    yield from _images(entry) if isinstance(config, GanConfig) else _useless(entry, kind)
    if isinstance(config, ChatConfig | FinetuneConfig) and len(entry.data) > 1:
        yield "data", f"{entry.data[1]}: one file at a time; the tasks of a suite have one each"
    if not entry.data and not _validates(config):
        yield "data", "the run has no validation data; name what to score"
    for key in ("data", "extractor", "inception_weights"):
        given = getattr(entry, key) or ()
        for path in (given,) if isinstance(given, str) else given:
            if not is_remote(path) and not Path(path).exists():
                yield key, f"{path} does not exist"


def _images(entry: Entry) -> Iterator[tuple[str, str]]:
    try:
        entry.images.check_extractor()
    except UserError as error:
        yield "extractor", str(error)


def _useless(entry: Entry, kind: str) -> Iterator[tuple[str, str]]:
    for name, value in vars(entry.images).items():
        if value is not None:
            yield name, f"has no effect on a {kind}; remove it"


def _validates(config: Config) -> bool:
    """Whether there is something to score without naming it."""
    if isinstance(config, GanConfig):
        return True  # its training images
    data = getattr(config, "data", None)
    return any(getattr(data, key, None) is not None for key in ("validation", "validation_fraction"))


def definitions(entry: Entry) -> "tuple[Definition, ...]":
    """The tasks of the harness that an entry lists. Raises UserError as `find_definitions`."""
    if entry.task != "harness":
        return ()
    from evals.harness.definition import find_definitions

    return find_definitions(entry.tasks, entry.task_folder)
