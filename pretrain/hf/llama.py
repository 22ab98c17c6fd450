"""Llama's layout: rotary positions, RMSNorm, SwiGLU, grouped-query attention (Touvron et al. 2023)."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.config.derived import ffn_hidden_size, query_groups, rotary_base
from pretrain.config.sections import DecoderConfig
from pretrain.hf.architecture import Decoder, obstacle, supports
from pretrain.hf.param_mapping import ParamMapping, Sizes, gated, qkv, same, vocabulary

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


class HfLlama(Decoder):
    """`LlamaForCausalLM`."""

    prefix, heads = "Llama", ("ForCausalLM",)
    base = "model."
    ignored = ("rotary_emb.inv_freq",)

    def obstacles(self, config: DecoderConfig) -> list[str]:
        found = obstacle(config, "position_embedding", "rotary")
        found += obstacle(config, "normalization", "rmsnorm")
        return found + obstacle(config, "activation", "swiglu")

    def links(self, config: DecoderConfig, vocab_size: int) -> Iterator[ParamMapping]:
        model, sizes = config.model, Sizes.of(config.model, vocab_size)
        hidden = sizes.hidden
        yield vocabulary("embedding.word_embeddings.weight", EMBEDDING, sizes, hidden)
        for number in range(model.num_layers):
            ours, theirs = f"decoder.layers.{number}.", f"model.layers.{number}."
            yield same(f"{ours}input_layernorm.weight", f"{theirs}input_layernorm.weight", hidden)
            yield same(f"{ours}pre_mlp_layernorm.weight", f"{theirs}post_attention_layernorm.weight", hidden)
            for kind in ("weight", "bias") if model.bias else ("weight",):
                yield from _linear(ours, theirs, sizes, kind)
        yield same("decoder.final_layernorm.weight", "model.norm.weight", hidden)
        if not model.tie_embeddings:
            yield vocabulary("output_layer.weight", HEAD, sizes, hidden)

    def copies(self, config: DecoderConfig) -> Mapping[str, str]:
        return {HEAD: EMBEDDING} if config.model.tie_embeddings else {}

    def their_config(self, config: DecoderConfig, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        model = config.model
        return {
            "vocab_size": vocab_size,
            "max_position_embeddings": config.batch.sequence_length,
            "hidden_size": model.hidden_size,
            "intermediate_size": ffn_hidden_size(model),
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_attention_heads,
            "num_key_value_heads": query_groups(model),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(rotary_base(model))},
            "rms_norm_eps": model.norm_epsilon,
            "initializer_range": model.init_std,
            "attention_bias": model.bias,
            "mlp_bias": model.bias,
            "tie_word_embeddings": model.tie_embeddings,
            "bos_token_id": ids.get("eos"),
            "eos_token_id": ids.get("eos"),
        }

    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        rope = theirs.rope_parameters
        supports(theirs, theirs.hidden_act, "silu", key="hidden_act")
        supports(theirs, rope.get("rope_type", "default"), "default", key="rope_parameters.rope_type")
        supports(theirs, rope["rope_theta"] % 1, 0, key="the fraction of rope_parameters.rope_theta")
        supports(theirs, rope.get("partial_rotary_factor", 1), 1, key="rope_parameters.partial_rotary_factor")
        supports(theirs, theirs.mlp_bias, theirs.attention_bias, key="mlp_bias")
        head_size = theirs.hidden_size // theirs.num_attention_heads
        supports(theirs, theirs.head_dim, head_size, key="head_dim")
        model = {
            "kind": "gpt",
            "num_layers": theirs.num_hidden_layers,
            "hidden_size": theirs.hidden_size,
            "num_attention_heads": theirs.num_attention_heads,
            "num_query_groups": theirs.num_key_value_heads,
            "ffn_hidden_size": theirs.intermediate_size,
            "position_embedding": "rotary",
            "rotary_base": int(rope["rope_theta"]),
            "normalization": "rmsnorm",
            "norm_epsilon": theirs.rms_norm_eps,
            "activation": "swiglu",
            "bias": theirs.attention_bias,
            "init_std": theirs.initializer_range,
            "tie_embeddings": theirs.tie_word_embeddings,
        }
        return {"model": model, "batch": {"sequence_length": theirs.max_position_embeddings}}


def _linear(ours: str, theirs: str, sizes: Sizes, kind: str) -> Iterator[ParamMapping]:
    """Mappings of the linear layers of a layer: weights, or biases."""
    into = (sizes.hidden,) if kind == "weight" else ()
    attention = f"{theirs}self_attn."
    names = (f"{attention}q_proj.{kind}", f"{attention}k_proj.{kind}", f"{attention}v_proj.{kind}")
    yield qkv(f"{ours}self_attention.linear_qkv.{kind}", names, sizes, *into)
    yield same(f"{ours}self_attention.linear_proj.{kind}", f"{attention}o_proj.{kind}", sizes.hidden, *into)
    up = (f"{theirs}mlp.gate_proj.{kind}", f"{theirs}mlp.up_proj.{kind}")
    yield gated(f"{ours}mlp.linear_fc1.{kind}", up, sizes, *into)
    down = (sizes.ffn,) if kind == "weight" else ()
    yield same(f"{ours}mlp.linear_fc2.{kind}", f"{theirs}mlp.down_proj.{kind}", sizes.hidden, *down)
