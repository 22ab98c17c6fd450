"""What is asked of a kind of model. One record a kind (`pretrain/FAMILY/kind.py`) holds all the answers.

Members are mostly `Late`: they import their libraries when they are called. So a record costs no more than
the config that it names, and `pretrain check --no-data` needs no torch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from evals.request import EvalRequest
    from evals.result import Result
    from pretrain.checkpoint import Checkpoint
    from pretrain.config.generate_request import GenerateRequest
    from pretrain.config.hardware import Cluster
    from pretrain.config.load import LoadedConfig
    from pretrain.config.rule import Rule
    from pretrain.config.sections import Config, TextModelConfig
    from pretrain.distributed.world import DistContext
    from pretrain.megatron.model_spec import ModelSpec
    from pretrain.megatron.parallel_dims import ParallelDims
    from pretrain.plan.command import PlanRequest
    from pretrain.training.step_sync import StepSync
    from pretrain.training.trainer import Trainer

C = TypeVar("C", bound="Config")
D = TypeVar("D")
"""The training data of a kind, opened."""


@dataclass(frozen=True)
class Late:
    """A function or class that is imported when it is called: `Late("module:name")(...)`.

    `tests/test_architecture.py` counts it as an import and checks that it exists.
    """

    name: str

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call what is named."""
        return resolve_name(self.name)(*args, **keywords)


@dataclass(frozen=True)
class Inheritance:
    """How a run of a kind takes its weights from another run (`model.init_from`)."""

    kinds: tuple[str, ...]
    """Kinds that its weights may come from, the one that it is made for first."""
    section: "type[TextModelConfig]"
    """The config class whose keys are inherited from that run."""


@dataclass(frozen=True)
class Planning:
    """`pretrain plan` of a kind."""

    show: "Callable[[Any, PlanRequest, Cluster], None]"
    """Prints the plan of a config of the kind. The rules between keys hold, except in a search for layouts
    that they allow."""
    options: frozenset[str] = frozenset()
    """Options that have an effect, of those that not every plan has: --search, --vocab-size, --tokens."""


LAYOUT_KEYS = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.virtual_pipeline",
    "parallel.context",
    "parallel.sequence",
    "batch.micro_size",
)
"""How an evaluation is spread over ranks."""
SHARD_KEYS = (
    "eval.max_windows",
    "data.train",
    "data.validation",
    "data.cache_dir",
    "data.cache_bytes",
)
"""What is read from token shards."""
CACHE_KEYS = ("data.cache_dir", "data.cache_bytes")
"""Where shards that are named by a URL are cached."""


def scored_shards(config: Any, named: bool) -> list[str]:
    """Directories of a config that an evaluation reads; none if the data to score is given separately."""
    if named:
        return []
    sources = getattr(config.data, "validation", None) or config.data.train
    return [source.path for source in sources]


@dataclass(frozen=True)
class Evaluation(Generic[C]):
    """`pretrain eval` of a kind."""

    score: "Callable[[Path, DistContext, EvalRequest], Result]"
    """Scores a verified step folder, all ranks together."""
    tasks: tuple[str, ...]
    """Tasks of a suite (`evals.suite`) that the kind has; the first is what is scored without a suite."""
    reads: Callable[[C, bool], Iterable[str]]
    """Directories and files whose contents decide the numbers, of a config; with True: beside the data that
    is named to be scored."""
    keys: tuple[str, ...]
    """Keys of the config that have an effect on it, such as `LAYOUT_KEYS`; all others belong to training."""
    stands_for: tuple[str, ...] = ("data.validation",)
    """Keys that --data replaces, which have no effect beside it."""
    forgets: tuple[str, ...] = ()
    """Keys that no longer apply: they are set back to null."""
    forgets_with_data: tuple[str, ...] = ()
    """Keys that do not apply to the data of --data."""
    options: frozenset[str] = frozenset()
    """Options that have an effect, of those that not every kind has: `stride`, fields of `ImageOptions`."""
    one_file: bool = False
    """Whether one file is scored at a time."""
    scores_training: bool = False
    """Whether there is something to score if the config names no validation data."""
    is_extractor: bool = False
    """Whether its features can compare images (`pretrain eval GAN --extractor RUN`)."""


@dataclass(frozen=True)
class Generation:
    """`pretrain generate` of a kind."""

    run: "Callable[[GenerateRequest], None]"
    """Draws from a checkpoint and prints or writes what was drawn."""
    options: frozenset[str]
    """Fields of `GenerateRequest` that have an effect."""


@dataclass(frozen=True)
class Export:
    """`pretrain export` of a kind."""

    run: Callable[..., None]
    """Writes a new folder: (checkpoint, folder), and by name the `options` that are given."""
    options: frozenset[str] = frozenset()
    """Which have an effect: `shard_bytes` of a file of weights; `tokenizer`, whether it goes along."""


@dataclass(frozen=True)
class Kind(Generic[C, D]):
    """A kind of model: what its config is, and what each command does with it."""

    name: str
    """`model.kind`."""
    title: str
    """Its name in messages: "--stride has no effect on TITLE"."""
    config: type[C]
    """The config class."""
    rules: "Sequence[Rule[Any]]"
    """Rules between its keys."""
    trainer: "Callable[[C, DistContext, StepSync, Checkpoint | None], Trainer[Any]]"
    """Model, optimizer and data of a run on this rank. The checkpoint is the run's own, which is loaded next:
    `model.init_from` is not read then."""
    open_data: "Callable[[LoadedConfig, C, int | None], D]"
    """Opens everything that a config names, as a training on so many processes does; None: not known.

    Raises ConfigError with every problem, IntegrityError where all are damage."""
    summary: Callable[[C, int | None, D | None], Iterable[tuple[str, str]]]
    """Rows of (what, value) of `pretrain check`: what follows from a config for so many processes; None: not
    known, data not opened."""
    contents: Callable[[D], str]
    """What was opened, in a few words, for the dry run."""
    spec: "Callable[[C, ParallelDims], ModelSpec[Any, Any]] | None" = None
    """Makes the model spec that a plan runs; None: it does not run in the megatron-core loop."""
    inherits: Inheritance | None = None
    """None: it always starts from random weights."""
    planning: Planning | None = None
    """None: `pretrain plan` does not support it."""
    evaluation: Evaluation[C] | None = None
    """None: `pretrain eval` does not score it."""
    generation: Generation | None = None
    """None: `pretrain generate` draws nothing from it."""
    export: Export | None = None
    """None: there is no other format to export it to."""
