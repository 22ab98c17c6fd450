"""GPT on megatron-core: config in, this rank's model chunks out."""

import math
from functools import partial
from typing import Any

from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import padded_vocab_size, rotary_base, windows
from pretrain.config.sections import DecoderConfig, DecoderModelConfig
from pretrain.gpt.rotary import scaled_frequencies, set_attention_factor
from pretrain.megatron.layers.attention import SDPACoreAttention, capped
from pretrain.megatron.layers.norm import OutputNormResidual, WholeNorm, norm_class
from pretrain.megatron.layers.transformer import layer_spec, parameter_dtype, transformer_config
from pretrain.megatron.layers.vocabulary import cross_entropy, without_padding
from pretrain.megatron.parallel_dims import ParallelDims


class GPT(GPTModel):  # type: ignore[misc]
    """megatron-core's GPT, in which padding rows of the vocabulary get no probability and no gradient.

    Args:
        model: our keys.
        true_vocab_size: ids of the tokenizer, without padding.
        tensor_rank: of this rank.
        arguments: megatron-core's.
    """

    def __init__(
        self, *, model: DecoderModelConfig, true_vocab_size: int, tensor_rank: int, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.true_vocab_size = true_vocab_size
        self.tensor_rank = tensor_rank
        self.z_loss = model.z_loss
        if model.position_embedding == "rotary":
            self.rotary_pos_emb.inv_freq = scaled_frequencies(model, self.rotary_pos_emb.inv_freq)
        if model.scale_embeddings and self.pre_process:
            scale = math.sqrt(model.hidden_size)
            self.embedding.word_embeddings.register_forward_hook(lambda _, __, embedded: embedded * scale)
        if (cap := model.logit_softcap) is not None and self.post_process:
            self.output_layer.register_forward_hook(lambda _, __, made: (capped(made[0], cap), made[1]))

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Cross entropy of each label, [B, S] float32.

        Args:
            labels: [B, S] int64.
            logits: [S, B, local vocabulary]; padding columns are overwritten.
        """
        logits = without_padding(logits, self.true_vocab_size, self.tensor_rank)
        size = self.config.tensor_model_parallel_size
        return cross_entropy(logits, labels.t(), size, self.tensor_rank, self.z_loss).t()


def _block_spec(
    model: DecoderModelConfig, config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Layers with norms and windows where `model` has them, and a norm at the end."""
    norm, spec = norm_class(model), layer_spec(model, config, AttnMaskType.causal)
    slots, attention = spec.submodules, spec.submodules.self_attention.submodules
    if model.norm_position == "output":
        slots.input_layernorm = slots.pre_mlp_layernorm = IdentityOp
    if model.norm_position != "pre":
        slots.self_attn_bda = slots.mlp_bda = ModuleSpec(OutputNormResidual, {"norm": norm, "config": config})
    if model.qk_norm == "head":
        attention.q_layernorm = attention.k_layernorm = norm
    elif model.qk_norm == "whole":
        attention.q_layernorm = ModuleSpec(WholeNorm, {"heads": config.num_attention_heads})
        attention.k_layernorm = ModuleSpec(WholeNorm, {"heads": config.num_query_groups})
    attention.core_attention = partial(
        SDPACoreAttention, windows=windows(model), softcap=model.attention_softcap
    )
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)


def build_gpt(
    config: DecoderConfig, layout: ParallelDims, vocab_size: int
) -> tuple[list[GPT], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set.

    Args:
        config: the run's config.
        vocab_size: ids of the tokenizer, without padding.
    """
    model = config.model
    megatron = transformer_config(config, layout.device)
    megatron.add_qkv_bias = model.qkv_bias
    megatron.softmax_scale = model.attention_scale
    # Each rank has some of the heads, so gradients of a weight for all heads must be summed over the ranks.
    megatron.qk_layernorm = model.qk_norm == "head"
    set_attention_factor(megatron, model)
    chunks = []
    for chunk in range(layout.chunks):
        stage = chunk if layout.parallel.virtual_pipeline else None
        module = GPT(
            model=model,
            true_vocab_size=vocab_size,
            tensor_rank=layout.tensor_rank,
            config=megatron,
            transformer_layer_spec=_block_spec(model, megatron, stage),
            vocab_size=padded_vocab_size(vocab_size, model.vocab_multiple),
            max_sequence_length=config.batch.sequence_length,
            pre_process=layout.is_first_stage and chunk == 0,
            post_process=layout.is_last_stage and chunk == layout.chunks - 1,
            share_embeddings_and_output_weights=model.tie_embeddings,
            position_embedding_type="rope" if model.position_embedding == "rotary" else "learned_absolute",
            rotary_base=rotary_base(model),
            rotary_percent=model.rotary_fraction or 1.0,
            vp_stage=stage,
        )
        chunks.append(module.to(device=layout.device, dtype=parameter_dtype(config)))
    return chunks, megatron
