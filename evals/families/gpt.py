"""The task of a GPT: every token of a text predicted from those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_tools.sources import absolute
from data_tools.tokenizer import Tokenizer
from evals.model import evaluate_model, open_sources
from evals.perplexity import DEFINITIONS, perplexities, standard_error
from evals.request import EvalRequest
from evals.result import Result
from evals.text import TextSize, text_size
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import GptConfig
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.gpt.data import ValidationData
from pretrain.gpt.spec import GptSpec, GptSums
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.training.metric_sums import MetricSums


@dataclass(frozen=True)
class NextToken:
    """Windows over the sources, as in the trainer's validation."""

    NAME: ClassVar[str] = "perplexity"
    DEFINITIONS: ClassVar[Mapping[str, str]] = DEFINITIONS
    config: GptConfig
    data: ValidationData
    tokenizer: Tokenizer

    @classmethod
    def over(
        cls, opened: Checkpoint, config: GptConfig, tokenizer: Tokenizer, request: EvalRequest
    ) -> "NextToken":
        """Windows `--stride` tokens apart, or a whole sequence apart."""
        sources = open_sources(config, tokenizer, request)
        return cls(config, ValidationData.over(sources, config, request.stride), tokenizer)

    def family(self, layout: ParallelDims) -> GptSpec:
        """The spec of a decoder."""
        return GptSpec(self.config, layout)

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        assert isinstance(totals, GptSums), "its family says so"
        if totals.tokens != self.data.tokens:
            raise RuntimeError(f"scored {totals.tokens} labels of {self.data.tokens}")
        size = TextSize(*broadcast_from_rank0(model.layout.world, self._size))
        error = standard_error(totals.nll, totals.squares, self.data.tokens)
        return {**perplexities(totals.nll, self.data.tokens, size), "validation_loss_error": error}

    def _size(self) -> Sequence[int]:
        ranges = [
            (source.reader, start, stop)
            for source, (start, stop) in zip(self.data.sources, self.data.scored, strict=True)
        ]
        return astuple(text_size(ranges, self.tokenizer))

    def spec(self) -> dict[str, Any]:
        """Ranges of tokens, and how windows are laid over them."""
        data = self.data
        return {
            "data": [
                {"path": absolute(source.path), **source.describe(), "scored": list(labels)}
                for source, labels in zip(data.sources, data.scored, strict=True)
            ],
            "stride": data.windows_of[0].stride,
            "windows": data.samples,
            "reset_at_document_end": data.reset_at_document_end,
            "max_windows": self.config.eval.max_windows,
        }


def evaluate_gpt(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Perplexity; see `evaluate_model`."""
    return evaluate_model(path, world, request, GptConfig, NextToken.over)
