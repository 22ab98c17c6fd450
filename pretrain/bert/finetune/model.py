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
"""Name prefix of a classifier's pooler, here and in a BERT pretrained with next sentences."""
HEAD = "classes."
"""Name prefix of the new head."""


class FinetunedBert(Encoder):
    """An encoder with a linear head: on the pooled [CLS], or on every position.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", sections 4.1 and 5.3. Dropout
    before the head is the model's, as in BERT's published code.

    Args:
        classes: how many there are.
        tagged: whether every position has a class, instead of the whole text.
        others: as for `Encoder`.
    """

    def __init__(self, *others: object, classes: int, tagged: bool, **more: object) -> None:
        self.sizes = classes, tagged
        super().__init__(*others, **more)  # type: ignore[arg-type]

    def build_heads(self, run: FinetuneConfig, rows: int) -> None:
        """Create the pooler, dropout and a linear layer; `rows` is not used."""
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
        """Encode and classify; arguments as for `Encoder.encode`.

        Returns:
            Hidden states [S, B, H] before the last chunk; from the last chunk logits, [B, classes] or [B, S,
            classes].
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
