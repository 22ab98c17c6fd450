"""The model spec of GPT: every token but the first is predicted from those before it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.sections import DecoderConfig
from pretrain.data.batch import Batch, every_label, plain_positions
from pretrain.data.transfer import to_device
from pretrain.gpt.model import GPT, build_gpt
from pretrain.megatron.layers.attention import attention_mask, zigzag_positions
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.training.metric_sums import MetricSums


@dataclass(frozen=True)
class GptSums(MetricSums):
    """The negative log-likelihood of the next tokens."""

    nll: float
    """Nats."""
    tokens: float
    """Labels that count."""
    squares: float
    """Squared losses, for the standard error."""

    @property
    def loss(self) -> float:
        return self.nll / self.tokens


@dataclass(frozen=True)
class LocalGptBatch:
    """As `pretrain.data.batch.Batch`; attention_mask as SDPACoreAttention takes it."""

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None


@dataclass(frozen=True)
class GptSpec(ModelSpec[Batch, LocalGptBatch]):
    """A decoder with one loss, that of the next token."""

    config: DecoderConfig
    layout: ParallelDims
    totals: ClassVar[type[MetricSums]] = GptSums

    def build(self, vocab_size: int) -> tuple[list[GPT], TransformerConfig]:
        return build_gpt(self.config, self.layout, vocab_size)

    def labels(self, batch: Batch) -> tuple[float]:
        return (float((batch.loss_mask > 0).sum()),)

    def dummy_batch(self) -> Batch:
        rows, length = self.config.batch.micro_size, self.config.batch.sequence_length
        ids = torch.zeros(rows, length, dtype=torch.int64)
        # One document a row.
        documents = ids if self.config.resets_at_document_end else None
        labels, positions = every_label(rows, length), plain_positions(rows, length)
        return Batch(ids, ids, labels, positions, documents, tuple(range(rows)))

    def without_labels(self, batch: Batch) -> Batch:
        return replace(batch, loss_mask=torch.zeros_like(batch.loss_mask))

    def own_positions(self, length: int) -> Tensor | slice:
        """Positions of a sequence that this context parallel rank has."""
        rank, size = self.layout.context_rank, self.layout.parallel.context
        return zigzag_positions(rank, size, length) if size > 1 else slice(None)

    def localise(self, batch: Batch) -> LocalGptBatch:
        rank, size = self.layout.context_rank, self.layout.parallel.context
        length = batch.tokens.shape[1]
        positions = self.own_positions(length)
        mask = attention_mask(batch.document_ids, rank, size, length)
        device = self.layout.device

        def part(tensor: Tensor) -> Tensor:
            return to_device(tensor[:, positions].contiguous(), device)

        return LocalGptBatch(
            tokens=part(batch.tokens),
            labels=part(batch.labels),
            loss_mask=part(batch.loss_mask),
            position_ids=part(batch.position_ids),
            attention_mask=None if mask is None else to_device(mask, device),
        )

    def run(self, chunk: GPT, local: LocalGptBatch) -> Tensor:
        """On the last chunk: the loss of each label, [B, S]."""
        output: Tensor = chunk(local.tokens, local.position_ids, local.attention_mask, labels=local.labels)
        return output

    def losses(self, output: Tensor, local: LocalGptBatch) -> tuple[Tensor, Tensor]:
        counts = local.loss_mask > 0
        masked = torch.where(counts, output.float(), 0.0)
        exact = masked.detach().double()
        return masked.sum()[None], torch.stack([exact.sum(), counts.double().sum(), exact.square().sum()])
