"""The model spec of BERT: chosen tokens are predicted, and whether two segments follow one another.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.bert.data.rows import BertBatch
from pretrain.bert.model import Bert, build_bert
from pretrain.config.sections import BertConfig
from pretrain.data.transfer import to_device
from pretrain.megatron.layers.attention import gathered_positions, zigzag_positions
from pretrain.megatron.layers.vocabulary import cross_entropy, most_likely
from pretrain.megatron.model_spec import ModelSpec
from pretrain.megatron.parallel_dims import ParallelDims
from pretrain.training.metric_sums import Baseline, MetricSums

NO_LABEL = -1
MLM_CAUSE = (
    "the model looks at nothing yet. With absolute positions on a small corpus that can last long: try "
    "model.position_embedding: rotary, shorter sequences at first, or another optimizer.lr"
)
NSP_CAUSE = (
    "next sentences are learnt after tokens. Where mlm_accuracy rises and this does not, segments may be too "
    "short to tell (batch.sequence_length), or documents too alike; data.nsp: false leaves it out"
)


@dataclass(frozen=True)
class BertSums(MetricSums):
    """Both losses and both accuracies, with what guessing without looking would reach."""

    mlm_nll: float
    """Nats, over all chosen positions."""
    mlm_squares: float
    """Squares of them, for the standard error."""
    chosen: float
    """Positions to predict."""
    chosen_right: float
    """Chosen positions that were predicted correctly."""
    masked: float
    """Chosen positions that read [MASK]; the others can be copied."""
    masked_nll: float
    """Nats, over these."""
    masked_right: float
    """Masked positions that were predicted correctly."""
    masked_frequent: float
    """Masked positions that hold the most frequent token of the data."""
    nsp_nll: float
    """Nats, over all pairs."""
    pairs: float
    """Pairs of segments, each with a label."""
    pairs_right: float
    """Pairs that were predicted correctly."""
    pairs_random: float
    """Pairs whose second segment is from another document."""

    @property
    def loss(self) -> float:
        return self.mlm_nll / max(self.chosen, 1) + self.nsp_nll / max(self.pairs, 1)

    @property
    def metrics(self) -> dict[str, float]:
        """Losses, accuracies and baselines, each if there is something to average."""
        found = {}
        if self.chosen:
            found["mlm_loss"] = self.mlm_nll / self.chosen
            found["mlm_chosen_accuracy"] = self.chosen_right / self.chosen
        if self.masked:
            found["mlm_accuracy"] = self.masked_right / self.masked
            found["mlm_baseline_accuracy"] = self.masked_frequent / self.masked
        if self.pairs:
            found["nsp_loss"] = self.nsp_nll / self.pairs
            found["nsp_accuracy"] = self.pairs_right / self.pairs
            found["nsp_baseline_accuracy"] = self.pairs_majority / self.pairs
        return found

    @property
    def pairs_majority(self) -> float:
        """How many pairs are right if each gets the more frequent answer."""
        return max(self.pairs_random, self.pairs - self.pairs_random)

    @property
    def guesses(self) -> tuple[Baseline, ...]:
        found = (
            Baseline("mlm_accuracy", self.masked, self.masked_right, self.masked_frequent, MLM_CAUSE),
            Baseline("nsp_accuracy", self.pairs, self.pairs_right, self.pairs_majority, NSP_CAUSE),
        )
        return tuple(guess for guess in found if guess.count)


@dataclass(frozen=True)
class LocalBertBatch:
    """B samples of S local positions, M of them chosen; the arguments of `Bert.forward`, and labels."""

    tokens: Tensor
    token_types: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    chosen: Tensor
    labels: Tensor
    """[M] int64."""
    masked: Tensor
    """[M] bool."""
    frequent: Tensor
    """[M] bool."""
    next_sentence: Tensor
    """[B] int64; NO_LABEL except on the rank that has the first position."""


@dataclass(frozen=True)
class BertSpec(ModelSpec[BertBatch, LocalBertBatch]):
    """An encoder with two losses, of masked tokens and of next sentences."""

    config: BertConfig
    layout: ParallelDims
    totals = BertSums
    reads_numbers = True

    def build(self, vocab_size: int) -> tuple[list[Bert], TransformerConfig]:
        return build_bert(self.config, self.layout, vocab_size)

    def labels(self, batch: BertBatch) -> tuple[float, float]:
        return float((batch.loss_mask > 0).sum()), float((batch.next_sentence != NO_LABEL).sum())

    def dummy_batch(self) -> BertBatch:
        """One micro-batch of full rows; the tokens to predict are spread evenly."""
        rows, length = self.config.batch.micro_size, self.config.batch.sequence_length
        ids = torch.zeros(rows, length, dtype=torch.int64)
        chosen = torch.zeros(rows, length)
        count = max(1, round(self.config.data.mask_probability * length))
        chosen[:, torch.linspace(0, length - 1, count).long()] = 1
        pairs = self.config.data.nsp
        return BertBatch(
            tokens=ids,
            token_types=ids,
            labels=ids,
            loss_mask=chosen,
            masked=chosen > 0,
            padding_mask=torch.ones(rows, length, dtype=torch.bool),
            next_sentence=torch.full((rows,), 0 if pairs else NO_LABEL),
            sample_ids=tuple(range(rows)),
            frequent_token=0,
        )

    def without_labels(self, batch: BertBatch) -> BertBatch:
        return replace(
            batch,
            loss_mask=torch.zeros_like(batch.loss_mask),
            next_sentence=torch.full_like(batch.next_sentence, NO_LABEL),
        )

    def localise(self, batch: BertBatch) -> LocalBertBatch:
        """Cut along the sequence. Chosen positions are found here, on the CPU, where nothing has to wait."""
        rank, size = self.layout.context_rank, self.layout.parallel.context
        rows, length = batch.tokens.shape
        own = zigzag_positions(rank, size, length) if size > 1 else torch.arange(length)
        chosen = (batch.loss_mask[:, own] > 0).t().flatten().nonzero()[:, 0]
        labels = batch.labels[:, own].t().flatten()[chosen]
        first = rank == 0
        device = self.layout.device

        def there(tensor: Tensor) -> Tensor:
            return to_device(tensor.contiguous(), device)

        return LocalBertBatch(
            tokens=there(batch.tokens[:, own]),
            token_types=there(batch.token_types[:, own]),
            position_ids=there(own.expand(rows, -1)),
            attention_mask=self._attention_mask(batch.padding_mask),
            chosen=there(chosen),
            labels=there(labels),
            masked=there(batch.masked[:, own].t().flatten()[chosen]),
            frequent=there(labels == batch.frequent_token),
            next_sentence=there(
                batch.next_sentence if first else torch.full_like(batch.next_sentence, NO_LABEL)
            ),
        )

    def _attention_mask(self, real_BS: Tensor) -> Tensor | None:
        """[B, 1, 1, keys] bool, in the order of the gathered keys; None if all tokens are real."""
        if bool(real_BS.all()):
            return None
        # A row of nothing but padding sees all its keys: attention over no key at all has no defined result.
        seen = real_BS | ~real_BS.any(1, keepdim=True)
        if self.layout.parallel.context > 1:
            seen = seen[:, gathered_positions(self.layout.parallel.context, real_BS.shape[1])]
        return to_device(seen[:, None, None], self.layout.device)

    def run(self, chunk: Bert, local: LocalBertBatch) -> Tensor | tuple[Tensor, Tensor | None]:
        """On the last chunk: logits of the chosen positions and of the pairs."""
        output: Tensor | tuple[Tensor, Tensor | None] = chunk(
            local.tokens, local.token_types, local.position_ids, local.attention_mask, local.chosen
        )
        return output

    def losses(self, output: tuple[Tensor, Tensor | None], local: LocalBertBatch) -> tuple[Tensor, Tensor]:
        logits_MV, pairs_B2 = output
        if pairs_B2 is None:
            pairs_B2 = logits_MV.new_zeros(len(local.next_sentence), 2)  # pairs without a label do not count
        group = parallel_state.get_tensor_model_parallel_group()
        right = most_likely(logits_MV, self.layout.tensor_rank, group) == local.labels
        nll_M = cross_entropy(logits_MV, local.labels, self.layout.parallel.tensor)
        nsp = F.cross_entropy(pairs_B2.float(), local.next_sentence, ignore_index=NO_LABEL, reduction="sum")
        seen = nll_M.detach().double()
        labelled = local.next_sentence != NO_LABEL
        report = [
            seen.sum(),
            seen.square().sum(),
            torch.ones_like(seen).sum(),
            right.sum(),
            local.masked.sum(),
            torch.where(local.masked, seen, 0.0).sum(),
            (local.masked & right).sum(),
            (local.masked & local.frequent).sum(),
            nsp.detach(),
            labelled.sum(),
            (pairs_B2.argmax(-1) == local.next_sentence).sum(),
            (local.next_sentence == 1).sum(),
        ]
        return torch.stack([nll_M.sum(), nsp]), torch.stack([number.double() for number in report])
