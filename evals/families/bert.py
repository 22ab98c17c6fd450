"""The task of a BERT: masked tokens predicted from both sides, and whether one segment follows the other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_tools.sources import absolute
from data_tools.tokenizer import Tokenizer
from evals.model import evaluate_model, open_sources
from evals.perplexity import error_of_share, require_finite
from evals.request import EvalRequest
from evals.result import Result
from pretrain.bert.data.text import BertValidationData
from pretrain.bert.spec import BertSpec, BertSums
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import BertConfig
from pretrain.distributed.world import DistContext
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.training.metric_sums import MetricSums

DEFINITIONS = {
    "mlm_accuracy": "predicted rightly / masked_tokens",
    "mlm_accuracy_error": "its standard error, sqrt(p (1 - p) / n), as if tokens were independent",
    "mlm_baseline_accuracy": "accuracy of always predicting the most frequent token, on the same positions",
    "mlm_chosen_accuracy": "predicted rightly / chosen_tokens; those that do not read [MASK] can be copied",
    "mlm_loss": "sum of -ln p(token) over the chosen tokens / chosen_tokens, in nats, as in training",
    "mlm_loss_error": "its standard error, standard deviation / sqrt(n), as if tokens were independent",
    "mlm_pseudo_perplexity": "exp(sum of -ln p(token) over the masked tokens / masked_tokens); tokens are "
    "masked together, not one at a time",
    "nsp_accuracy": "judged rightly / pairs",
    "nsp_accuracy_error": "its standard error, sqrt(p (1 - p) / n)",
    "nsp_baseline_accuracy": "share of the more frequent answer",
    "nsp_loss": "sum of -ln p(answer) / pairs, in nats",
    "validation_loss": "mlm_loss + nsp_loss: what training minimises",
    "chosen_tokens": "tokens to predict, drawn from the seed as in the trainer's validation",
    "masked_tokens": "those of them that read [MASK]",
    "pairs": "samples of two segments",
}


def masked_metrics(totals: BertSums) -> dict[str, float]:
    """Metric name -> value, as DEFINITIONS says; only those for which there is something to average.

    Raises HealthError: the loss is not finite.
    """
    require_finite(totals.loss, f"{totals.chosen:,.0f} tokens and {totals.pairs:,.0f} pairs")
    found = dict(totals.metrics)
    if totals.masked:
        found["mlm_accuracy_error"] = error_of_share(found["mlm_accuracy"], totals.masked)
        found["mlm_pseudo_perplexity"] = math.exp(min(totals.masked_nll / totals.masked, 700))
    if totals.chosen:
        variance = max(0.0, totals.mlm_squares / totals.chosen - found["mlm_loss"] ** 2)
        found["mlm_loss_error"] = math.sqrt(variance / totals.chosen)
    if totals.pairs:
        found["nsp_accuracy_error"] = error_of_share(found["nsp_accuracy"], totals.pairs)
    found["validation_loss"] = totals.loss
    counts = {"chosen_tokens": totals.chosen, "masked_tokens": totals.masked, "pairs": totals.pairs}
    found |= {name: int(count) for name, count in counts.items()}
    return {name: found[name] for name in DEFINITIONS if name in found}


@dataclass(frozen=True)
class MaskedTokens:
    """Samples with fixed masks, as in the trainer's validation."""

    NAME: ClassVar[str] = "masked"
    DEFINITIONS: ClassVar[Mapping[str, str]] = DEFINITIONS
    config: BertConfig
    data: BertValidationData
    settings: Mapping[str, Any]
    """How masked tokens are chosen."""

    @classmethod
    def over(
        cls, opened: Checkpoint, config: BertConfig, tokenizer: Tokenizer, request: EvalRequest
    ) -> "MaskedTokens":
        """Samples of the shards of `--data`, or else of the run's validation data."""
        sources = open_sources(config, tokenizer, request)
        settings = config.data.model_dump(exclude={"train", "validation", "validation_fraction", "tokenizer"})
        return cls(config, BertValidationData.over(sources, config), settings)

    def family(self, layout: ParallelDims) -> BertSpec:
        """The spec of a pretrained encoder."""
        return BertSpec(self.config, layout)

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        assert isinstance(totals, BertSums), "its family says so"
        return masked_metrics(totals)

    def spec(self) -> dict[str, Any]:
        """Ranges of tokens, and how samples are drawn from them."""
        return {
            "data": [{"path": absolute(source.path), **source.describe()} for source in self.data.sources],
            "samples": self.data.samples,
            "masking": {"seed": self.data.seed, **self.settings},
            "max_windows": self.config.eval.max_windows,
        }


def evaluate_bert(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Accuracies; see `evaluate_model`."""
    return evaluate_model(path, world, request, BertConfig, MaskedTokens.over)
