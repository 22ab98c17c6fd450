"""What `pretrain eval` scores for one kind of model."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from pretrain.data.dataset import ValidationDataset
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.training.metric_sums import MetricSums


class Task(Protocol):
    """Data to score, and the metrics computed from the sums."""

    NAME: ClassVar[str]
    """Stem of the result file in MLflow."""
    DEFINITIONS: ClassVar[Mapping[str, str]]
    """The definition of every metric, and of the terms that they use."""

    @property
    def data(self) -> ValidationDataset:
        """Validation data of the model's kind."""

    def family(self, layout: ParallelDims) -> ModelSpec[Any, Any]:
        """The spec by which the model is run."""

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        """Metric name -> value; all ranks call it together. Raises HealthError: the loss is not finite."""

    def spec(self) -> dict[str, Any]:
        """Everything about the data that decides the metrics."""
