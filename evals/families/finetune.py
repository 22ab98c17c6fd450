"""The task of a fine-tuned BERT: a class for each text, or for each word, compared with a labelled file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_tools.counts import counted
from data_tools.tokenizer import Tokenizer
from evals.config import one_file
from evals.model import evaluate_model
from evals.perplexity import error_of_share, require_finite
from evals.request import EvalRequest
from evals.result import Result
from pretrain.bert.finetune.data.data import LabelledTraining, LabelledValidation, open_examples
from pretrain.bert.finetune.predictions import collect
from pretrain.bert.finetune.spec import FinetuneSpec, FinetuneSums
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import FinetuneConfig
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.restore import TOKENIZER_FOLDER, saved_labels
from pretrain.training.metric_sums import MetricSums

DEFINITIONS = {
    "accuracy": "answers with the right class / answers; words that were cut off count as wrong",
    "accuracy_error": "its standard error, sqrt(p (1 - p) / n), as if answers were independent",
    "baseline_accuracy": "share of the class that is the commonest of the training file",
    "f1": "mean over classes, or, where classes are named as in B-PER, that of whole entities",
    "validation_loss": "mean cross-entropy of the answers, in nats",
    "answers": "texts, or words, to put into classes",
}


@dataclass(frozen=True)
class LabelledExamples:
    """The examples of a file, as in the trainer's validation."""

    NAME: ClassVar[str] = "accuracy"
    DEFINITIONS: ClassVar[Mapping[str, str]] = DEFINITIONS
    config: FinetuneConfig
    training: LabelledTraining
    """The source of the list of classes and of the most common one."""
    data: LabelledValidation

    @classmethod
    def over(
        cls, checkpoint: Checkpoint, config: FinetuneConfig, tokenizer: Tokenizer, request: EvalRequest
    ) -> "LabelledExamples":
        """The examples of `--data`, or else of `data.validation`.

        Raises UserError: there is no such file, something is wrong with it, or the training file has other
        classes than the model.
        """
        file = one_file(request.data, config.data.validation)
        config = config.model_copy(update={"data": config.data.model_copy(update={"validation": file})})
        training, data = open_examples(config, checkpoint.path / TOKENIZER_FOLDER)
        assert data is not None, "the config names it"
        classes = saved_labels(checkpoint)
        if classes and classes != data.data.labels.names:
            raise UserError(
                f"{config.data.train}: its classes are {', '.join(data.data.labels.names)}; those of "
                f"{checkpoint.path} are {', '.join(classes)}: it is not the file that the run was trained on"
            )
        return cls(config, training, data)

    def family(self, layout: ParallelDims) -> FinetuneSpec:
        return FinetuneSpec.of(self.config, layout, self.training)

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        assert isinstance(totals, FinetuneSums), "its family says so"
        require_finite(totals.nll, f"{totals.answers:,.0f} answers")
        found = {**totals.metrics, **collect(model, self.data).metrics()}
        right = found["accuracy"]
        return {
            "accuracy": right,
            "accuracy_error": error_of_share(right, totals.answers),
            "baseline_accuracy": found["baseline_accuracy"],
            "f1": found["f1"],
            "validation_loss": totals.loss,
            "answers": int(totals.answers),
        }

    def spec(self) -> dict[str, Any]:
        data = self.data.data
        return {
            "data": [{"path": str(Path(data.path).absolute()), "fingerprint": data.fingerprint}],
            "labels": list(data.labels.names),
            "summary": f"scored {data.path}: {counted(len(data), 'example')} of "
            f"{counted(len(data.labels), 'class')}",
        }


def evaluate_finetuned(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Accuracy; see `evaluate_model`."""
    return evaluate_model(path, world, request, FinetuneConfig, LabelledExamples.over)
