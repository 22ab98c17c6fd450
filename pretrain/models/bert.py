"""BERT on megatron-core: config in, this rank's model chunks out.

Megatron's own BertModel computes logits at every position, and fixes the norm of its head and the form of its
mask. This one is made of the same parts, with heads that see the chosen positions alone.
"""

import copy
from collections import OrderedDict

import torch
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel import ColumnParallelLinear, gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType, ModelType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlock,
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import padded_vocab_size, rotary_base
from pretrain.config.sections import BertConfig, BertModelConfig
from pretrain.layout import Layout
from pretrain.models.norm import AddThenNorm, norm_class
from pretrain.models.transformer import ACTIVATIONS, layer_spec, parameter_dtype, transformer_config
from pretrain.models.vocabulary import without_padding

TOKEN_TYPES = 2


class MaskedHead(torch.nn.Module):
    """What a hidden state goes through before it is compared with the embeddings (BERT's published code)."""

    def __init__(self, model: BertModelConfig, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=model.bias)
        self.activation = ACTIVATIONS[model.activation]
        self.norm = norm_class(model)(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, hidden_MH: Tensor) -> Tensor:
        """[M, H] to [M, H]."""
        normed: Tensor = self.norm(self.activation(self.dense(hidden_MH)))
        return normed


class Bert(LanguageModule):  # type: ignore[misc]
    """A bidirectional encoder with its two heads.

    Heads are replicated over tensor parallel ranks and see whole sequences, also under sequence parallelism.

    Shape legend: B micro-batch, S local sequence, H hidden, M chosen positions, V local padded vocabulary.

    Args:
        config: megatron-core's.
        run: the run's config.
        true_vocab_size: ids of the tokenizer, without padding.
        tensor_rank: of this rank.
        pre_process: whether this chunk embeds.
        post_process: whether this chunk has the heads.
        vp_stage: number of this chunk on its stage; None without virtual pipeline.
    """

    def __init__(
        self,
        config: TransformerConfig,
        run: BertConfig,
        *,
        true_vocab_size: int,
        tensor_rank: int,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
    ) -> None:
        super().__init__(config=config)
        model = run.model
        self.model_type = ModelType.encoder_or_decoder
        self.true_vocab_size, self.tensor_rank = true_vocab_size, tensor_rank
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.share_embeddings_and_output_weights = True
        rows = padded_vocab_size(true_vocab_size, model.vocab_multiple)
        rotary = model.position_embedding == "rotary"
        if pre_process:
            kind = "rope" if rotary else "learned_absolute"
            self.embedding = LanguageModelEmbedding(
                config, rows, run.batch.sequence_length, kind, num_tokentypes=TOKEN_TYPES
            )
            if model.norm_position == "post":
                norm = norm_class(model)(config, config.hidden_size, config.layernorm_epsilon)
                dropout = self.embedding.embedding_dropout
                self.embedding.embedding_dropout = torch.nn.Sequential(
                    OrderedDict(norm=norm, dropout=dropout)
                )
        self.rotary_positions = (
            RotaryEmbedding(
                config.kv_channels,
                rotary_percent=1.0,
                rotary_base=rotary_base(model),
                use_cpu_initialization=config.use_cpu_initialization,
            )
            if rotary
            else None
        )
        self.encoder = TransformerBlock(
            config,
            _block_spec(model, config, vp_stage),
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )
        if post_process:
            self._build_heads(model, rows, next_sentence=run.data.nsp)
        if pre_process or post_process:
            self.setup_embeddings_and_output_layer()

    def _build_heads(self, model: BertModelConfig, rows: int, *, next_sentence: bool) -> None:
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
        if next_sentence:
            self.pooler = torch.nn.Linear(whole.hidden_size, whole.hidden_size, bias=model.bias)
            self.next_sentence = torch.nn.Linear(whole.hidden_size, 2, bias=model.bias)

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Take over the output of the stage before, as megatron's schedules call it."""
        self.encoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

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
            attention_mask: boolean, broadcastable to [B, heads, S, keys], True for real tokens; None: all.
            chosen_M: int64, positions to predict, as b + B x s.

        Returns:
            Hidden states [S, B, H] before the last chunk; from it logits [M, V], minus infinity for padding
            rows, and those of the next sentence [B, 2] or None.
        """
        embedded = self.embedding(tokens_BS, position_ids_BS, token_types_BS) if self.pre_process else None
        rotary = None
        if self.rotary_positions is not None:
            rotary = self.rotary_positions(tokens_BS.shape[1] * self.config.context_parallel_size)
        hidden_SBH: Tensor = self.encoder(embedded, attention_mask, rotary_pos_emb=rotary)
        if not self.post_process:
            return hidden_SBH
        if self.config.sequence_parallel:
            # Every rank computes the same heads, so each has the whole gradient of what it gathers.
            hidden_SBH = gather_from_sequence_parallel_region(hidden_SBH, tensor_parallel_output_grad=False)
        chosen_MH = self.masked_head(hidden_SBH.flatten(0, 1).index_select(0, chosen_M))
        logits_MV, _ = self.output_layer(chosen_MH, weight=self.shared_embedding_or_output_weight())
        logits_MV = without_padding(logits_MV, self.true_vocab_size, self.tensor_rank)
        if self.next_sentence is None or self.pooler is None:
            return logits_MV, None
        return logits_MV, self.next_sentence(torch.tanh(self.pooler(hidden_SBH[0])))


def _block_spec(
    model: BertModelConfig, config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Layers with the norms where `model.norm_position` says."""
    norm = norm_class(model)
    spec = layer_spec(model, config, AttnMaskType.padding)
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    if model.norm_position == "pre":
        return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)
    slots = spec.submodules
    slots.input_layernorm = slots.pre_mlp_layernorm = IdentityOp
    slots.self_attn_bda = slots.mlp_bda = ModuleSpec(AddThenNorm, {"norm": norm, "config": config})
    return TransformerBlockSubmodules(layer_specs=[spec] * layers)


def build_bert(config: BertConfig, layout: Layout, vocab_size: int) -> tuple[list[Bert], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set.

    Args:
        config: the run's config.
        layout: this rank's place.
        vocab_size: ids of the tokenizer, without padding.
    """
    megatron = transformer_config(config, layout.device)
    chunks = [
        Bert(
            megatron,
            config,
            true_vocab_size=vocab_size,
            tensor_rank=layout.tensor_rank,
            pre_process=layout.is_first_stage and chunk == 0,
            post_process=layout.is_last_stage and chunk == layout.chunks - 1,
            vp_stage=chunk if layout.parallel.virtual_pipeline else None,
        ).to(device=layout.device, dtype=parameter_dtype(config))
        for chunk in range(layout.chunks)
    ]
    return chunks, megatron
