"""GPT on megatron-core: config in, this rank's model chunks out."""

from typing import Any

import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from pretrain.config.derived import padded_vocab_size, rotary_base
from pretrain.config.sections import GptConfig, GptModelConfig
from pretrain.layout import Layout
from pretrain.models.attention import SDPACoreAttention
from pretrain.models.norm import LayerNorm, RMSNorm
from pretrain.models.transformer import parameter_dtype, transformer_config


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
        logits = self.without_padding(logits)
        if self.config.tensor_model_parallel_size > 1 or logits.is_cuda:
            losses: Tensor = super().compute_language_model_loss(labels, logits)
            return losses
        # megatron's own takes twice the passes over the logits, and three all-reduces. On a GPU it is used
        # for its memory: it holds one fp32 copy of the logits, torch's two.
        flat = F.cross_entropy(logits.flatten(0, 1).float(), labels.t().flatten(), reduction="none")
        return flat.view(logits.shape[:2]).t()

    def without_padding(self, logits: Tensor) -> Tensor:
        """Set the logits of padding rows to minus infinity, in place."""
        first_padding = self.true_vocab_size - self.tensor_rank * logits.shape[-1]
        if first_padding < logits.shape[-1]:
            logits[..., max(first_padding, 0) :] = float("-inf")
        return logits


def layer_spec(model: GptModelConfig, config: TransformerConfig, vp_stage: int | None) -> Any:
    """megatron-core's layer with our attention and norms in its slots."""
    norm = RMSNorm if model.normalization == "rmsnorm" else LayerNorm
    spec: ModuleSpec = get_gpt_layer_local_spec(normalization=config.normalization)
    spec.submodules.input_layernorm = norm
    spec.submodules.pre_mlp_layernorm = norm
    spec.submodules.self_attention.submodules.core_attention = SDPACoreAttention
    layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)


def build_gpt(config: GptConfig, layout: Layout, vocab_size: int) -> tuple[list[GPT], TransformerConfig]:
    """This rank's chunks of the model, on its device, with weights not yet set.

    Args:
        config: the run's config.
        layout: this rank's place.
        vocab_size: ids of the tokenizer, without padding.
    """
    model = config.model
    megatron = transformer_config(config, layout.device)
    chunks = []
    for chunk in range(layout.chunks):
        stage = chunk if layout.parallel.virtual_pipeline else None
        module = GPT(
            true_vocab_size=vocab_size,
            tensor_rank=layout.tensor_rank,
            config=megatron,
            transformer_layer_spec=layer_spec(model, megatron, stage),
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
