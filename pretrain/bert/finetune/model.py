"""A pretrained encoder with a new head: classes of texts or of words."""

import functools

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.sections import FinetuneConfig
from pretrain.megatron.layers.encoder import Encoder, build_chunks
from pretrain.megatron.layers.linear import Linear
from pretrain.megatron.parallel_dims import ParallelDims

POOLER = "pooler."
"""What the names of a classifier's pooler begin with, here and in a BERT pretrained with next sentences."""
HEAD = "classes."
"""What the names of the new head begin with."""


class FinetunedBert(Encoder):
    """An encoder whose head is linear: of the pooled [CLS], or of every position.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", sections 4.1 and 5.3. Dropout
    before the head is the model's, as in BERT's published code.

    Args:
        classes: how many there are.
        tagged: whether every position has one, not the whole.
        others: as `Encoder`.
    """

    def __init__(self, *others: object, classes: int, tagged: bool, **more: object) -> None:
        self.sizes = classes, tagged
        super().__init__(*others, **more)  # type: ignore[arg-type]

    def build_heads(self, run: FinetuneConfig, rows: int) -> None:
        """Pooler, dropout and a linear layer; `rows` does not matter."""
        classes, tagged = self.sizes
        hidden, bias = run.model.hidden_size, run.model.bias
        self.pooler = None if tagged else Linear(hidden, hidden, bias=bias)
        self.dropout = torch.nn.Dropout(run.model.dropout)
        self.classes = Linear(hidden, classes)

    def forward(
        self,
        tokens_BS: Tensor,
        token_types_BS: Tensor,
        position_ids_BS: Tensor,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Encode and classify; arguments as `Encoder.encode` has them.

        Returns:
            Hidden states [S, B, H] before the last chunk; from it logits, [B, classes] or [B, S, classes].
        """
        hidden_SBH = self.encode(tokens_BS, token_types_BS, position_ids_BS, attention_mask)
        if not self.post_process:
            return hidden_SBH
        seen = hidden_SBH.transpose(0, 1) if self.pooler is None else torch.tanh(self.pooler(hidden_SBH[0]))
        logits: Tensor = self.classes(self.dropout(seen))
        return logits


def build_finetuned(
    config: FinetuneConfig, layout: ParallelDims, vocab_size: int, classes: int, *, tagged: bool
) -> tuple[list[FinetunedBert], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set."""
    make = functools.partial(FinetunedBert, true_vocab_size=vocab_size, classes=classes, tagged=tagged)
    return build_chunks(make, config, layout)
