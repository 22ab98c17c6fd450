"""What the loop over micro-batches asks of a model family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.training.metric_sums import MetricSums

B = TypeVar("B")
"""What a family is fed: one micro-batch of a data parallel rank, on the CPU."""
L = TypeVar("L")
"""What this context parallel rank needs of it, on its device."""


class ModelSpec(ABC, Generic[B, L]):
    """How one kind of model is built, run and judged on this rank."""

    totals: ClassVar[type[MetricSums]]
    """Its fields name the numbers of a report."""
    reads_numbers: ClassVar[bool] = False
    """Whether `localise` looks at the numbers of a batch, which tensors without numbers have not."""

    @abstractmethod
    def build(self, vocab_size: int) -> tuple[Sequence[Any], TransformerConfig]:
        """This rank's chunks of the model, with weights not yet set.

        Args:
            vocab_size: ids of the tokenizer, without padding.
        """

    @abstractmethod
    def labels(self, batch: B) -> tuple[float, ...]:
        """How many labels each of the family's losses has in a micro-batch."""

    @abstractmethod
    def dummy_batch(self) -> B:
        """One micro-batch of full rows, for its shapes alone."""

    @abstractmethod
    def without_labels(self, batch: B) -> B:
        """A micro-batch of the same shape that counts for nothing."""

    @abstractmethod
    def localise(self, batch: B) -> L:
        """This context parallel rank's part of a micro-batch, on its device."""

    @abstractmethod
    def run(self, chunk: Any, local: L) -> Any:
        """A micro-batch through one chunk: what goes to the next, or what `losses` takes."""

    @abstractmethod
    def losses(self, output: Any, local: L) -> tuple[Tensor, Tensor]:
        """The last chunk's output to numbers.

        Returns:
            The sum of each loss over its labels, [losses] float32, to be divided by the global batch's number
            of them, and a report, [fields of `totals`] float64, without gradient.
        """


FamilyOf = Callable[[Any, ParallelDims], ModelSpec[Any, Any]]
"""Makes the family of a config on this rank."""
