"""What a suite lists: the tasks of `configs/eval/*.yaml`, each with the options that apply to it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from evals.images.options import ImageEvalOptions
from evals.scored import evaluation_named, kinds_with
from pretrain.config.load import read_section
from pretrain.config.node import ConfigError, Problem, SourceLocation
from pretrain.config.sections import Section
from pretrain.config.sections.section import LARGEST_COUNT, Count, Name, PathText

_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "perplexity": ("data", "stride", "max_windows"),
        "masked": ("data", "max_windows"),
        "answers": ("data",),
        "accuracy": ("data",),
        "images": (
            *("data", "extractor", "inception_weights", "inception_sha256", "resize", "samples", "seed"),
        ),
        "harness": ("tasks", "task_folder"),
    }
)
_PATHS = ("extractor", "inception_weights")


def one_or_more(value: Any) -> Any:
    """One text, or a list of them, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Paths = Annotated[tuple[PathText, ...], BeforeValidator(one_or_more)]


def _label(text: str) -> str:
    if not all(letter.isalnum() or letter in "_-." for letter in text):
        raise ValueError("is part of the names of metrics: letters, digits, '_', '-' and '.' only")
    return text


def _tasks(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of one or more tasks such as [{task: perplexity}]")
    return tuple(value)


class ImageOptionsSection(Section):
    """The options about a GAN's images."""

    extractor: PathText | None = None
    """Run of a classifier in whose features to compare images."""
    inception_weights: PathText | None = None
    """Inception as TorchScript, which gives FID."""
    inception_sha256: Name | None = None
    """What that file's SHA-256 must be."""
    resize: Literal["file", "antialias"] | None = None
    """Who resizes images for Inception; null: its file."""
    samples: Count | None = None
    """Images to generate; null: as many as there are real ones."""
    seed: int | None = Field(None, ge=0, le=LARGEST_COUNT)
    """Seed of the generated images; null: 1234."""

    @property
    def images(self) -> ImageEvalOptions:
        return ImageEvalOptions(**{each.name: getattr(self, each.name) for each in fields(ImageEvalOptions)})


class SuiteEntry(ImageOptionsSection):
    """One thing to score. Keys that are left out are as for `pretrain eval` without its options."""

    task: Literal["perplexity", "masked", "answers", "accuracy", "images", "harness"]
    """perplexity: of a GPT or a recurrent model. masked: accuracies of a BERT. answers: perplexity of a GPT's
    answers in conversations. accuracy: of a classifier of images, or of a fine-tuned BERT. images: distances
    of a GAN's images to real ones. harness: tasks of lm-evaluation-harness, of a GPT."""
    name: Annotated[Name, AfterValidator(_label)] | None = None
    """Stands before the names of its metrics, as in `wiki/token_perplexity`; null: nothing does."""
    data: Paths = ()
    """Shard directories, or for a fine-tuned model one file; none: the run's validation data."""
    stride: Count | None = None
    """perplexity: tokens that a window moves on; null: a whole sequence."""
    max_windows: Count | None = None
    """perplexity, masked: score the first this many sequences of each source of the run's validation data;
    null: as many as the run's `eval.max_windows` says. Not with `data`, which is scored whole."""
    tasks: Paths = ()
    """harness: task files, or names of tasks in `task_folder`."""
    task_folder: PathText | None = None
    """harness: folder of task files; null: configs/eval/tasks, or the presets of that name."""

    @property
    def overrides(self) -> list[str]:
        return [] if self.max_windows is None else [f"eval.max_windows={self.max_windows}"]

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that it reads besides the run."""
        return (*self.data, *(value for name in _PATHS if (value := getattr(self, name)) is not None))

    def metric(self, name: str) -> str:
        return name if self.name is None else f"{self.name}/{name}"


class SuiteFile(Section):
    """A file of `configs/eval`."""

    tasks: Annotated[tuple[SuiteEntry, ...], BeforeValidator(_tasks)]
    """What to score."""


@dataclass(frozen=True)
class Suite:
    """What to score, and where that is written."""

    path: str | None
    """None: given on the command line."""
    entries: tuple[SuiteEntry, ...]

    def misfit(self, kind: str) -> str | None:
        """Why a checkpoint of a kind cannot be scored with this suite; None if it can."""
        for number, entry in enumerate(self.entries, start=1):
            if kind not in kinds_with(entry.task):
                fits = [task for task in _OPTIONS if kind in kinds_with(task)]
                return (
                    f"{self.path}: task {number}, {entry.task}, is for model.kind "
                    f"{' or '.join(kinds_with(entry.task))}, not {kind}"
                    + (f"; for {kind} there is {' and '.join(fits)}" if fits else "")
                )
        return None


def load_suite(path: str) -> Suite:
    """Read a suite. Raises ConfigError: everything that is wrong with it, at once."""
    file, sources = read_section(SuiteFile, path)
    location = sources["tasks"]
    problems = [problem for entry in _numbered(file) for problem in _useless(*entry, location)]
    seen: dict[tuple[str | None, str], str] = {}
    for key, entry in _numbered(file):
        metrics = (entry.name, "" if entry.name else entry.task)
        if metrics in seen:
            text = f"has the name of {seen[metrics]}; their metrics would be mixed up: give each a `name`"
            problems.append(Problem(location, key, text))
        seen[metrics] = key
    if problems:
        raise ConfigError(problems)
    return Suite(path, file.tasks)


def named_tasks(tasks: tuple[str, ...], folder: str | None) -> Suite:
    """What `pretrain eval --tasks` scores."""
    # Not validated: on a command line the shell has expanded globs, which SuiteEntry would refuse.
    return Suite("--tasks", (SuiteEntry.model_construct(task="harness", tasks=tasks, task_folder=folder),))


def only_task(kind: str) -> Suite:
    """What `pretrain eval` scores of a kind without a suite; raises UserError if there is nothing."""
    return Suite(None, (SuiteEntry.model_validate({"task": evaluation_named(kind).tasks[0]}),))


def _numbered(file: SuiteFile) -> list[tuple[str, SuiteEntry]]:
    return [(f"tasks.{number}", entry) for number, entry in enumerate(file.tasks)]


def _useless(key: str, entry: SuiteEntry, location: SourceLocation) -> list[Problem]:
    given = entry.model_fields_set - {"task", "name"}
    useless = sorted(name for name in given if name not in _OPTIONS[entry.task] and getattr(entry, name))
    found = [
        Problem(location, f"{key}.{name}", f"has no effect on task {entry.task}; remove it")
        for name in useless
    ]
    if entry.task == "harness" and not entry.tasks:
        found.append(Problem(location, f"{key}.tasks", "name at least one task of the harness"))
    if entry.data and entry.max_windows is not None:
        found.append(Problem(location, f"{key}.max_windows", "has no effect with data; remove one of them"))
    return found
