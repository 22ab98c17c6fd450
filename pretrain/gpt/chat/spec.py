"""The model spec of fine-tuning on conversations: what the assistant says is predicted."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from megatron.core import parallel_state
from torch import Tensor

from pretrain.config.sections import ChatConfig
from pretrain.data.batch import Batch
from pretrain.data.transfer import to_device
from pretrain.gpt.model import GPT
from pretrain.gpt.spec import GptSpec, LocalGptBatch
from pretrain.megatron.layers.vocabulary import cross_entropy, most_likely, without_padding
from pretrain.training.metric_sums import MetricSums


@dataclass(frozen=True)
class ChatSums(MetricSums):
    """The negative log-likelihood of answers, and how many of their tokens are the model's first choice."""

    nll: float
    """Nats."""
    tokens: float
    """Tokens of answers, with the ends of turns."""
    right: float
    """Tokens that are the model's first choice."""
    squares: float
    """Squared losses, for the standard error."""

    @property
    def loss(self) -> float:
        return self.nll / self.tokens

    @property
    def metrics(self) -> dict[str, float]:
        """Share of the tokens that the model would have chosen, each after the true ones."""
        return {"accuracy": self.right / self.tokens}


@dataclass(frozen=True)
class LocalChatBatch(LocalGptBatch):
    """As `LocalGptBatch`; chosen: [M] int64, positions in [B x S] whose labels count."""

    chosen: Tensor


@dataclass(frozen=True)
class ChatSpec(GptSpec):
    """A decoder with a loss on some of the tokens.

    Attributes:
        vocab_size: ids of the tokenizer, without padding.
    """

    config: ChatConfig
    vocab_size: int
    totals: ClassVar[type[MetricSums]] = ChatSums

    def localise(self, batch: Batch) -> LocalChatBatch:
        """Positions of answers are found here, on the CPU, where nothing has to wait."""
        whole = super().localise(batch)
        own = self.own_positions(batch.tokens.shape[1])
        chosen = (batch.loss_mask[:, own] > 0).flatten().nonzero()[:, 0]
        return LocalChatBatch(**vars(whole), chosen=to_device(chosen, self.layout.device))

    def run(self, chunk: GPT, local: LocalGptBatch) -> Tensor:
        """On the last chunk: logits, [B, S, V]."""
        output: Tensor = chunk(local.tokens, local.position_ids, local.attention_mask)
        return output

    def losses(self, output: Tensor, local: LocalGptBatch) -> tuple[Tensor, Tensor]:
        """Losses where `loss_mask` says so; logits of other positions are not used."""
        assert isinstance(local, LocalChatBatch)
        labels_M = local.labels.flatten()[local.chosen]
        chosen_MV = output.flatten(0, 1)[local.chosen]
        logits_MV = without_padding(chosen_MV, self.vocab_size, self.layout.tensor_rank)
        group = parallel_state.get_tensor_model_parallel_group()
        right = most_likely(logits_MV, self.layout.tensor_rank, group) == labels_M
        nll_M = cross_entropy(
            logits_MV,
            labels_M,
            self.layout.parallel.tensor,
            self.layout.tensor_rank,
            self.config.model.z_loss,
        )
        exact = nll_M.detach().double()
        count = exact.new_full((), len(labels_M))
        report = [exact.sum(), count, right.double().sum(), exact.square().sum()]
        return nll_M.sum()[None], torch.stack(report)
