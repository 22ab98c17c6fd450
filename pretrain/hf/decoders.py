"""The table of GPTs that transformers knows. A new architecture of known parts is a row."""

from dataclasses import replace

from pretrain.config.derived import ffn_hidden_size, query_groups
from pretrain.hf.architecture import Decoder
from pretrain.hf.fields import (
    attention_scale,
    bias,
    dropout,
    head_dim,
    only,
    plain,
    renamed,
    rotary,
    windows,
    zero_if_absent,
)

_OURS, _H, _LAYER = "decoder.layers.*.", "transformer.h.*.", "model.layers.*."
_GPT2_NAMES = {
    "embedding.word_embeddings": "transformer.wte",
    "embedding.position_embeddings": "transformer.wpe",
    f"{_OURS}input_layernorm": f"{_H}ln_1",
    f"{_OURS}self_attention.linear_qkv": f"{_H}attn.c_attn",
    f"{_OURS}self_attention.linear_proj": f"{_H}attn.c_proj",
    f"{_OURS}pre_mlp_layernorm": f"{_H}ln_2",
    f"{_OURS}mlp.linear_fc1": f"{_H}mlp.c_fc",
    f"{_OURS}mlp.linear_fc2": f"{_H}mlp.c_proj",
    "decoder.final_layernorm": "transformer.ln_f",
    "output_layer": "lm_head",
}
_LLAMA_NAMES = {
    "embedding.word_embeddings": "model.embed_tokens",
    f"{_OURS}input_layernorm": f"{_LAYER}input_layernorm",
    f"{_OURS}self_attention.linear_qkv": [f"{_LAYER}self_attn.{each}_proj" for each in "qkv"],
    f"{_OURS}self_attention.linear_proj": f"{_LAYER}self_attn.o_proj",
    f"{_OURS}pre_mlp_layernorm": f"{_LAYER}post_attention_layernorm",
    f"{_OURS}mlp.linear_fc1": [f"{_LAYER}mlp.gate_proj", f"{_LAYER}mlp.up_proj"],
    f"{_OURS}mlp.linear_fc2": f"{_LAYER}mlp.down_proj",
    f"{_OURS}self_attention.q_layernorm": f"{_LAYER}self_attn.q_norm",
    f"{_OURS}self_attention.k_layernorm": f"{_LAYER}self_attn.k_norm",
    "decoder.final_layernorm": "model.norm",
    "output_layer": "lm_head",
}
_OUTPUT_NORMS = {
    f"{_OURS}self_attn_bda.norm": f"{_LAYER}post_attention_layernorm",
    f"{_OURS}mlp_bda.norm": f"{_LAYER}post_feedforward_layernorm",
}
_GPT2_FIELDS = (
    plain("n_positions", "batch.sequence_length"),
    plain("n_embd", "hidden_size"),
    plain("n_layer", "num_layers"),
    plain("n_head", "num_attention_heads"),
    plain("n_inner", "ffn_hidden_size", ffn_hidden_size),
    renamed(
        "activation_function",
        "activation",
        {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
    ),
    dropout("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    plain("layer_norm_epsilon", "norm_epsilon"),
    plain("initializer_range", "init_std"),
    plain("tie_word_embeddings", "tie_embeddings"),
    only("scale_attn_weights", True),
    only("scale_attn_by_inverse_layer_idx", False),
    only("add_cross_attention", False),
    only("is_encoder_decoder", False),
    zero_if_absent(),
)
_LLAMA_FIELDS = (
    plain("max_position_embeddings", "batch.sequence_length"),
    plain("hidden_size", "hidden_size"),
    plain("intermediate_size", "ffn_hidden_size", ffn_hidden_size),
    plain("num_hidden_layers", "num_layers"),
    plain("num_attention_heads", "num_attention_heads"),
    plain("num_key_value_heads", "num_query_groups", query_groups),
    rotary(),
    plain("rms_norm_eps", "norm_epsilon"),
    plain("initializer_range", "init_std"),
    plain("tie_word_embeddings", "tie_embeddings"),
    only("is_encoder_decoder", False),
)
_SILU = only("hidden_act", "silu")
_LLAMA = {"position_embedding": "rotary", "normalization": "rmsnorm", "activation": "swiglu"}
_UNBIASED = _LLAMA | {"bias": False}
_QWEN_WINDOWS = windows("sliding_window", "use_sliding_window", "layer_types", "max_window_layers")

GPT2 = Decoder(
    classes=("GPT2LMHeadModel",),
    base="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),
    names=_GPT2_NAMES,
    parts=_GPT2_FIELDS,
    implied={"position_embedding": "learned", "normalization": "layernorm"},
    transposed=True,
    always_biased=tuple(name for name in _GPT2_NAMES if "linear" in name),
)
LLAMA = Decoder(
    classes=("LlamaForCausalLM",),
    base="model.",
    ignored=("rotary_emb.inv_freq",),
    names=_LLAMA_NAMES,
    parts=(*_LLAMA_FIELDS, _SILU, head_dim(), bias("attention_bias", "mlp_bias")),
    implied=_LLAMA,
)
MISTRAL = replace(
    LLAMA,
    classes=("MistralForCausalLM",),
    parts=(*_LLAMA_FIELDS, _SILU, head_dim(), windows("sliding_window")),
    implied=_UNBIASED,
)
QWEN2 = replace(
    LLAMA,
    classes=("Qwen2ForCausalLM",),
    parts=(*_LLAMA_FIELDS, _SILU, _QWEN_WINDOWS, only("use_mrope", False, written=False)),
    implied=_UNBIASED | {"qkv_bias": True},
)
QWEN3 = replace(
    LLAMA,
    classes=("Qwen3ForCausalLM",),
    parts=(*_LLAMA_FIELDS, _SILU, head_dim(), _QWEN_WINDOWS, only("attention_bias", False)),
    implied=_UNBIASED | {"qk_norm": "head"},
)
OLMO2 = replace(
    LLAMA,
    classes=("Olmo2ForCausalLM",),
    names=_LLAMA_NAMES | _OUTPUT_NORMS,
    parts=(*_LLAMA_FIELDS, _SILU, only("attention_bias", False)),
    implied=_UNBIASED | {"qk_norm": "whole", "norm_position": "output"},
)
GEMMA2 = replace(
    LLAMA,
    classes=("Gemma2ForCausalLM",),
    names=_LLAMA_NAMES | _OUTPUT_NORMS | {f"{_OURS}pre_mlp_layernorm": f"{_LAYER}pre_feedforward_layernorm"},
    parts=(
        *_LLAMA_FIELDS,
        only("hidden_activation", "gelu_pytorch_tanh"),
        only("hidden_act", "gelu_pytorch_tanh", written=False),
        only("attention_bias", False),
        only("use_bidirectional_attention", None, False),
        head_dim(),
        windows("sliding_window", "layer_types"),
        attention_scale(),
        plain("attn_logit_softcapping", "attention_softcap"),
        plain("final_logit_softcapping", "logit_softcap"),
    ),
    implied=_UNBIASED
    | {
        "activation": "geglu_tanh",
        "norm_position": "both",
        "scale_embeddings": True,
        "zero_centered_norm": True,
    },
)

DECODERS = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2)
"""In the order in which an export looks for the nearest."""
