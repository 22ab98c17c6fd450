"""GPT on megatron-core: config in, this rank's model chunks out."""

from typing import Any

from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import padded_vocab_size, rotary_base
from pretrain.config.sections import DecoderConfig, DecoderModelConfig
from pretrain.errors import UserError
from pretrain.megatron.layers.norm import norm_class
from pretrain.megatron.layers.transformer import layer_spec, parameter_dtype, transformer_config
from pretrain.megatron.layers.vocabulary import cross_entropy, without_padding
from pretrain.megatron.parallel_dims import ParallelDims


class GPT(GPTModel):  # type: ignore[misc]
    """megatron-core's GPT, in which padding rows of the vocabulary get no probability and no gradient."""

    def __init__(self, *, true_vocab_size: int, tensor_rank: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.true_vocab_size = true_vocab_size
        self.tensor_rank = tensor_rank

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Cross entropy of each label, [B, S] float32.

        Args:
            labels: [B, S] int64.
            logits: [S, B, local vocabulary]; padding columns are overwritten.
        """
        logits = without_padding(logits, self.true_vocab_size, self.tensor_rank)
        return cross_entropy(logits, labels.t(), self.config.tensor_model_parallel_size).t()


def _block_spec(
    model: DecoderModelConfig, config: TransformerConfig, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """Layers with the norm before each half, and a norm at the end."""
    spec = layer_spec(model, config, AttnMaskType.causal)
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm_class(model))


PENDING = (
    "scale_embeddings",
    "head_size",
    "qkv_bias",
    "qk_norm",
    "norm_position",
    "rotary_fraction",
    "rotary_scaling",
    "window",
    "attention_scale",
    "attention_softcap",
    "logit_softcap",
    "z_loss",
)
"""Keys of `model` that are not built yet."""


def _refuse_pending(model: DecoderModelConfig) -> None:
    fields = DecoderModelConfig.model_fields
    found = [f"{key}: {getattr(model, key)}" for key in PENDING if getattr(model, key) != fields[key].default]
    if found:
        raise UserError(f"model.{', model.'.join(found)}: not built yet; remove what is named")


def build_gpt(
    config: DecoderConfig, layout: ParallelDims, vocab_size: int
) -> tuple[list[GPT], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set.

    Args:
        config: the run's config.
        vocab_size: ids of the tokenizer, without padding.
    """
    model = config.model
    _refuse_pending(model)
    megatron = transformer_config(config, layout.device)
    chunks = []
    for chunk in range(layout.chunks):
        stage = chunk if layout.parallel.virtual_pipeline else None
        module = GPT(
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
            vp_stage=stage,
        )
        chunks.append(module.to(device=layout.device, dtype=parameter_dtype(config)))
    return chunks, megatron
