"""The task of a GPT that was fine-tuned on conversations: the perplexity of what the assistant says."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_tools.tokenizer import Tokenizer
from evals.config import one_file
from evals.model import evaluate_model
from evals.perplexity import error_of_share, require_finite, standard_error
from evals.request import EvalRequest
from evals.result import Result
from pretrain.checkpoint import Checkpoint
from pretrain.config.sections import ChatConfig
from pretrain.distributed.world import DistContext
from pretrain.errors import IntegrityError
from pretrain.gpt.chat.data import ChatSequences, ChatValidation
from pretrain.gpt.chat.spec import ChatSpec, ChatSums
from pretrain.gpt.chat.template import template_of
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.training.metric_sums import MetricSums

DEFINITIONS = {
    "answer_perplexity": "exp(NLL / answer_tokens)",
    "answer_accuracy": "answer tokens that are the likeliest, each after the true ones / answer_tokens",
    "answer_accuracy_error": "its standard error, sqrt(p (1 - p) / n), as if tokens were independent",
    "validation_loss": "NLL / answer_tokens, in nats, as in training",
    "validation_loss_error": "its standard error, standard deviation / sqrt(answer_tokens), as if tokens "
    "were independent",
    "answer_tokens": "tokens of what assistants say, with the ends of their turns",
    "conversations": "how many there are",
    "NLL": "sum of -ln p(token | conversation before it) over the answer tokens, in nats, from float32 "
    "losses summed in float64",
}


@dataclass(frozen=True)
class AssistantTokens:
    """The conversations of a file, as in the trainer's validation."""

    NAME: ClassVar[str] = "answers"
    DEFINITIONS: ClassVar[Mapping[str, str]] = DEFINITIONS
    config: ChatConfig
    data: ChatValidation
    vocab_size: int
    template: str
    """SHA-256 of the chat template."""

    @classmethod
    def over(
        cls, opened: Checkpoint, config: ChatConfig, tokenizer: Tokenizer, request: EvalRequest
    ) -> "AssistantTokens":
        """The conversations of `--data`, or else of `data.validation`.

        Raises:
            UserError: there is no such file, or something is wrong with it.
            IntegrityError: the checkpoint has no chat template.
        """
        template = template_of(opened)
        if template is None:
            raise IntegrityError(f"{opened.path}: the checkpoint holds no chat template")
        file = one_file(request.data, config.data.validation)
        digest = hashlib.sha256(template.source.encode()).hexdigest()
        sequences = ChatSequences.read(file, config, tokenizer, template)
        return cls(config, ChatValidation(sequences), tokenizer.vocab_size, digest)

    def family(self, layout: ParallelDims) -> ChatSpec:
        return ChatSpec(self.config, layout, self.vocab_size)

    def metrics(self, totals: MetricSums, model: PipelineModel) -> dict[str, float]:
        assert isinstance(totals, ChatSums), "its family says so"
        require_finite(totals.nll, f"{totals.tokens:,.0f} tokens")
        right = totals.right / totals.tokens
        return {
            "answer_perplexity": math.exp(min(totals.loss, 700)),
            "answer_accuracy": right,
            "answer_accuracy_error": error_of_share(right, totals.tokens),
            "validation_loss": totals.loss,
            "validation_loss_error": standard_error(totals.nll, totals.squares, int(totals.tokens)),
            "answer_tokens": int(totals.tokens),
            "conversations": len(self.data.data.examples),
        }

    def spec(self) -> dict[str, Any]:
        sequences = self.data.data
        return {
            "data": [{"path": str(Path(sequences.path).absolute()), "fingerprint": sequences.fingerprint}],
            "sequences": len(sequences),
            "packing": self.config.data.packing,
            "too_long": self.config.data.too_long,
            "chat_template_sha256": self.template,
            "summary": f"scored {sequences.path}: the answers of {len(sequences.examples):,} conversations",
        }


def evaluate_chat(path: Path, world: DistContext, request: EvalRequest) -> Result:
    """Perplexity of answers; see `evaluate_model`."""
    return evaluate_model(path, world, request, ChatConfig, AssistantTokens.over)
