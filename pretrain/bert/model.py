"""BERT on megatron-core: an encoder with the two heads of pretraining, which see only chosen positions."""

import copy
import functools

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.sections import BertConfig, BertModelConfig
from pretrain.megatron.layers.encoder import Encoder, build_chunks
from pretrain.megatron.layers.linear import Linear
from pretrain.megatron.layers.norm import norm_class
from pretrain.megatron.layers.transformer import ACTIVATIONS
from pretrain.megatron.layers.vocabulary import without_padding
from pretrain.megatron.parallel_dims import ParallelDims


class MaskedHead(torch.nn.Module):
    """Transforms a hidden state before it is compared with the embeddings (BERT's published code)."""

    def __init__(self, model: BertModelConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=model.bias)
        self.activation = ACTIVATIONS[model.activation]
        self.norm = norm_class(model)(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, hidden_MH: Tensor) -> Tensor:
        """[M, H] to [M, H]."""
        normed: Tensor = self.norm(self.activation(self.dense(hidden_MH)))
        return normed


class Bert(Encoder):
    """An encoder that predicts chosen tokens, and whether its second segment follows the first."""

    ties_embeddings = True

    def build_heads(self, run: BertConfig, rows: int) -> None:
        model = run.model
        whole = copy.copy(self.config)
        whole.sequence_parallel = False
        self.masked_head = MaskedHead(model, whole)
        self.output_layer = ColumnParallelLinear(
            whole.hidden_size,
            rows,
            config=whole,
            init_method=whole.init_method,
            bias=model.bias,
            skip_bias_add=False,
            gather_output=False,
            skip_weight_param_allocation=self.pre_process,
        )
        self.pooler = self.next_sentence = None
        if run.data.nsp:
            self.pooler = Linear(whole.hidden_size, whole.hidden_size, bias=model.bias)
            self.next_sentence = Linear(whole.hidden_size, 2, bias=model.bias)

    def forward(
        self,
        tokens_BS: Tensor,
        token_types_BS: Tensor,
        position_ids_BS: Tensor,
        attention_mask: Tensor | None,
        chosen_M: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """Encode, and predict the tokens at some positions.

        Args:
            tokens_BS: int64.
            token_types_BS: int64, 0 or 1.
            position_ids_BS: int64, positions in the whole sequence.
            attention_mask: boolean, broadcastable to [B, heads, S, keys], True for real tokens; None: all
                are.
            chosen_M: int64, positions to predict, as b + B x s.

        Returns:
            Hidden states [S, B, H] before the last chunk. From the last chunk logits [M, V], minus infinity
            for padding rows, and those of the next sentence, [B, 2] or None.
        """
        hidden_SBH = self.encode(tokens_BS, token_types_BS, position_ids_BS, attention_mask)
        if not self.post_process:
            return hidden_SBH
        chosen_MH = self.masked_head(hidden_SBH.flatten(0, 1).index_select(0, chosen_M))
        logits_MV, _ = self.output_layer(chosen_MH, weight=self.shared_embedding_or_output_weight())
        logits_MV = without_padding(logits_MV, self.true_vocab_size, self.tensor_rank)
        if self.next_sentence is None or self.pooler is None:
            return logits_MV, None
        return logits_MV, self.next_sentence(torch.tanh(self.pooler(hidden_SBH[0])))


def build_bert(
    config: BertConfig, layout: ParallelDims, vocab_size: int
) -> tuple[list[Bert], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set.

    Args:
        config: the run's config.
        vocab_size: ids of the tokenizer, without padding.
    """
    return build_chunks(functools.partial(Bert, true_vocab_size=vocab_size), config, layout)
