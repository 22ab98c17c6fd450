"""From our config to megatron-core's TransformerConfig, for every transformer."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from pretrain.config.derived import ffn_hidden_size, gated, head_size, query_groups
from pretrain.config.sections import TextConfig, TextModelConfig
from pretrain.megatron.layers.attention import SDPACoreAttention
from pretrain.megatron.layers.linear import ColumnLinear, RowLinear
from pretrain.megatron.layers.norm import norm_class

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


def parameter_dtype(config: TextConfig) -> torch.dtype:
    """The dtype of weights in the forward pass."""
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def _leave_uninitialised(tensor: torch.Tensor) -> torch.Tensor:
    """Do nothing: `megatron.init` sets every weight by its logical name."""
    return tensor


def transformer_config(config: TextConfig, device: torch.device) -> TransformerConfig:
    """megatron-core's config for this run."""
    model, parallel = config.model, config.parallel
    dtype = parameter_dtype(config)
    interleaved = parallel.virtual_pipeline is not None
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=query_groups(model),
        kv_channels=head_size(model),
        ffn_hidden_size=ffn_hidden_size(model),
        normalization="RMSNorm" if model.normalization == "rmsnorm" else "LayerNorm",
        layernorm_epsilon=model.norm_epsilon,
        add_bias_linear=model.bias,
        gated_linear_unit=gated(model),
        activation_func=ACTIVATIONS[model.activation],
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        init_method=_leave_uninitialised,
        output_layer_init_method=_leave_uninitialised,
        embedding_init_method=_leave_uninitialised,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=config.precision == "bf16",
        use_cpu_initialization=device.type == "cpu",
        # The loss is a sum over tokens, divided once by the tokens of the global batch, so that neither
        # the micro-batch size nor the layout weighs tokens differently.
        calculate_per_token_loss=True,
        # Interleaved schedules with batched p2p silently train wrong at two stages.
        batch_p2p_comm=not interleaved,
        overlap_p2p_comm=interleaved,
        batch_p2p_sync=False,
        # gloo may still be sending an output when the schedule frees it.
        deallocate_pipeline_outputs=device.type == "cuda",
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        cuda_graph_scope=[],
        recompute_granularity=None if parallel.recompute == "none" else parallel.recompute,
        recompute_method="uniform" if parallel.recompute == "full" else None,
        recompute_num_layers=1 if parallel.recompute == "full" else None,
    )


def layer_spec(model: TextModelConfig, config: TransformerConfig, mask: AttnMaskType) -> ModuleSpec:
    """megatron-core's layer with our attention and norms in its slots; a new spec at each call."""
    norm = norm_class(model)
    spec: ModuleSpec = get_gpt_layer_local_spec(normalization=config.normalization)
    spec.submodules.input_layernorm = norm
    spec.submodules.pre_mlp_layernorm = norm
    spec.submodules.self_attention.params["attn_mask_type"] = mask
    attention, mlp = spec.submodules.self_attention.submodules, spec.submodules.mlp.submodules
    attention.core_attention = SDPACoreAttention
    if config.tensor_model_parallel_size == 1:
        attention.linear_qkv = mlp.linear_fc1 = ColumnLinear
        attention.linear_proj = mlp.linear_fc2 = RowLinear
    return spec
