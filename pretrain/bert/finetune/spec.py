"""The model spec of fine-tuning: an encoder predicts a class for each text or each word."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.bert.finetune.data.data import LabelledBatch, LabelledTraining
from pretrain.bert.finetune.data.examples import NO_LABEL
from pretrain.bert.finetune.model import FinetunedBert, build_finetuned
from pretrain.config.sections import FinetuneConfig
from pretrain.data.transfer import to_device
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.training.metric_sums import MetricSums


@dataclass(frozen=True)
class FinetuneSums(MetricSums):
    """Loss and accuracy, with the accuracy of always predicting the commonest class."""

    nll: float
    """Nats."""
    answers: float
    """Texts or words with a label."""
    right: float
    """Texts or words that were predicted correctly."""
    commonest: float
    """Texts or words whose class is the commonest of the training data."""

    @property
    def loss(self) -> float:
        return self.nll / max(self.answers, 1)

    @property
    def metrics(self) -> dict[str, float]:
        if not self.answers:
            return {}
        return {
            "accuracy": self.right / self.answers,
            "baseline_accuracy": self.commonest / self.answers,
        }


@dataclass(frozen=True)
class LocalLabelled:
    """The arguments of `FinetunedBert.forward`, and labels."""

    tokens: Tensor
    token_types: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class FinetuneSpec(ModelSpec[LabelledBatch, LocalLabelled]):
    """An encoder with a new head.

    Attributes:
        config: of the run.
        layout: this rank's coordinates.
        classes: how many there are.
        commonest: number of the commonest class of the training data.
        tagged: whether words are classified, not texts.
    """

    config: FinetuneConfig
    layout: ParallelDims
    classes: int
    commonest: int
    tagged: bool
    totals = FinetuneSums
    reads_numbers = True

    @classmethod
    def of(cls, config: FinetuneConfig, layout: ParallelDims, data: LabelledTraining) -> "FinetuneSpec":
        return cls(config, layout, len(data.data.labels), data.commonest, data.data.tagged)

    def build(self, vocab_size: int) -> tuple[list[FinetunedBert], TransformerConfig]:
        return build_finetuned(self.config, self.layout, vocab_size, self.classes, tagged=self.tagged)

    def labels(self, batch: LabelledBatch) -> tuple[float]:
        return (float((batch.labels != NO_LABEL).sum()),)

    def dummy_batch(self) -> LabelledBatch:
        batch = self.config.batch
        ids = torch.zeros(batch.micro_size, batch.sequence_length, dtype=torch.int64)
        labels = ids if self.tagged else ids[:, 0]
        return LabelledBatch(ids, ids, torch.ones_like(ids, dtype=torch.bool), labels, tuple(range(len(ids))))

    def without_labels(self, batch: LabelledBatch) -> LabelledBatch:
        return replace(batch, labels=torch.full_like(batch.labels, NO_LABEL))

    def localise(self, batch: LabelledBatch) -> LocalLabelled:
        """The whole batch on this rank's device; a rule refuses context parallelism."""
        positions = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
        mask = None if bool(batch.padding_mask.all()) else batch.padding_mask[:, None, None]

        def there(tensor: Tensor) -> Tensor:
            return to_device(tensor, self.layout.device)

        return LocalLabelled(
            tokens=there(batch.tokens),
            token_types=there(batch.token_types),
            position_ids=there(positions),
            attention_mask=None if mask is None else there(mask),
            labels=there(batch.labels),
        )

    def run(self, chunk: FinetunedBert, local: LocalLabelled) -> Tensor:
        output: Tensor = chunk(local.tokens, local.token_types, local.position_ids, local.attention_mask)
        return output

    def losses(self, output: Tensor, local: LocalLabelled) -> tuple[Tensor, Tensor]:
        logits, labels = output.flatten(0, -2).float(), local.labels.flatten()
        nll = F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
        asked = labels != NO_LABEL
        right, commonest = logits.argmax(-1) == labels, labels == self.commonest
        report = [nll.detach(), asked.sum(), right.sum(), commonest.sum()]
        return nll[None], torch.stack([number.double() for number in report])
