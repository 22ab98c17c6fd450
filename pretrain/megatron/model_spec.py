"""The model spec: what the loop over micro-batches asks of a kind of model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.training.metric_sums import MetricSums

B = TypeVar("B")
"""One micro-batch of a data-parallel rank, on the CPU."""
L = TypeVar("L")
"""The part of it that this context-parallel rank needs, on its device."""


class ModelSpec(ABC, Generic[B, L]):
    """How one kind of model is built, run and judged on this rank."""

    totals: ClassVar[type[MetricSums]]
    """The metric sums; their fields name the numbers of a report."""
    reads_numbers: ClassVar[bool] = False
    """Whether `localise` looks at the values of a batch, which fake tensors do not have."""

    @abstractmethod
    def build(self, vocab_size: int) -> tuple[Sequence[Any], TransformerConfig]:
        """This rank's chunks of the model, with weights not yet set, and megatron-core's config.

        Args:
            vocab_size: ids of the tokenizer, without padding.
        """

    @abstractmethod
    def labels(self, batch: B) -> tuple[float, ...]:
        """How many labels each loss of the model has in a micro-batch."""

    @abstractmethod
    def dummy_batch(self) -> B:
        """One micro-batch of full rows, used only for its shapes."""

    @abstractmethod
    def without_labels(self, batch: B) -> B:
        """A micro-batch of the same shape that adds nothing to any loss."""

    @abstractmethod
    def localise(self, batch: B) -> L:
        """This context parallel rank's part of a micro-batch, on its device."""

    @abstractmethod
    def run(self, chunk: Any, local: L) -> Any:
        """Run a micro-batch through one chunk: returns the input of the next chunk, or that of `losses`."""

    @abstractmethod
    def losses(self, output: Any, local: L) -> tuple[Tensor, Tensor]:
        """Turn the last chunk's output into numbers.

        Returns:
            The sum of each loss over its labels, [losses] float32, to be divided by the global batch's number
            of them; and a report, [fields of `totals`] float64, without gradient.
        """


SpecOf = Callable[[Any, ParallelDims], ModelSpec[Any, Any]]
"""Makes the model spec of a config on this rank."""
