"""Scores a transformer on megatron-core, on any parallel dims.

The weights, the windows and the forward pass are those of the trainer's validation, so with the default
stride exp(validation loss) of the trainer at that step is the token perplexity here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from evals.config import evaluation_config
from evals.request import EvalRequest
from evals.result import Result, spec_of
from pretrain.checkpoint import Checkpoint, open_checkpoint
from pretrain.checkpoint.tokenizer import load_tokenizer
from pretrain.config.load import require_kind
from pretrain.config.sections import CorpusConfig, TextConfig
from pretrain.data.dataset import ValidationDataset
from pretrain.data.sources import TokenRange, open_validation, open_whole, shard_cache
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.restore import RESOLVED_CONFIG, SavedModel, load_model
from pretrain.megatron.score import score
from pretrain.training.metric_sums import MetricSums


class Task(Protocol):
    """Data to score, and the metrics computed from the sums."""

    NAME: ClassVar[str]
    """Stem of the result file in MLflow."""
    DEFINITIONS: ClassVar[Mapping[str, str]]
    """The definition of every metric, and of the terms that they use."""

    @property
    def data(self) -> ValidationDataset[Any]:
        """Validation data of the model's kind."""

    def family(self, layout: ParallelDims) -> ModelSpec[Any, Any]:
        """The spec by which the model is run."""

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        """Metric name -> value; all ranks call it together. Raises HealthError: the loss is not finite."""

    def spec(self) -> dict[str, Any]:
        """Everything about the data that decides the metrics."""


LIBRARIES = ("pretrain", "torch", "megatron-core")
C = TypeVar("C", bound=TextConfig)
OpenTask = Callable[[Checkpoint, C, Tokenizer, EvalRequest], Task]
"""Opens the task of a model on the data of a request, or on the validation data of its run."""


def evaluate_model(
    path: Path, world: DistContext, request: EvalRequest, kind: type[C], open_task: OpenTask[C]
) -> Result:
    """Score a checkpoint, all ranks together.

    Args:
        path: verified step folder.
        kind: of the checkpoint's config.
        open_task: opens the data.

    Returns:
        The result, on every rank.

    Raises:
        UserError, IntegrityError: the overrides, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    opened = open_checkpoint(path)
    tokenizer = load_tokenizer(opened)
    found = evaluation_config(path / RESOLVED_CONFIG, request.overrides, world.size, data=request.data)
    config = require_kind(found, kind, "this evaluation")
    task = open_task(opened, config, tokenizer, request)
    dims = request.layout_of(world, config.parallel)
    saved = SavedModel(opened, config, tokenizer.vocab_size)
    model = load_model(saved, config, dims, task.family(dims))
    metrics = task.metrics(_score(model, task.data, dims), model)
    return Result(str(path), opened.step, metrics, _spec(opened, config, task, tokenizer, dims))


def open_sources(config: CorpusConfig, tokenizer: Tokenizer, request: EvalRequest) -> tuple[TokenRange, ...]:
    """The shards of `--data`, or else the run's validation data.

    Raises:
        UserError: there are none.
    """
    if request.data:
        return open_whole(request.data, tokenizer.fingerprint, "--data", shard_cache(config.data))
    found = open_validation(config, tokenizer.fingerprint)
    if found is None:
        raise UserError("the run has no validation data; name shards to score with --data DIR")
    return found


def _score(model: PipelineModel, data: ValidationDataset[Any], layout: ParallelDims) -> MetricSums:
    """As `score`, with a progress bar on rank 0."""
    if not layout.world.is_first:
        return score(model, data)
    micro_size = model.config.batch.micro_size
    with Progress("scoring", data.batches(layout.data_size, micro_size), "micro-batches") as progress:
        return score(model, data, progress.advance)


def _spec(
    opened: Checkpoint, config: TextConfig, task: Task, tokenizer: Tokenizer, layout: ParallelDims
) -> dict[str, Any]:
    """Everything needed to reproduce the metrics."""
    return {
        **spec_of(task.NAME, task.DEFINITIONS, opened, layout.world, LIBRARIES),
        **tokenizer.facts,
        "sequence_length": config.batch.sequence_length,
        **task.spec(),
        "precision": config.precision,
        "layout": layout.describe(),
        "parallel": config.parallel.model_dump(),
        "micro_size": config.batch.micro_size,
        "seed": config.run.seed,
    }
