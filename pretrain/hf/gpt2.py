"""GPT-2's layout: learned positions, LayerNorm, biases (Radford et al. 2019)."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrain.config.derived import ffn_hidden_size, query_groups
from pretrain.config.sections import DecoderConfig
from pretrain.hf.architecture import (
    THEIR_ACTIVATIONS,
    Decoder,
    activation,
    common_dropout,
    obstacle,
    supports,
)
from pretrain.hf.param_mapping import (
    ParamMapping,
    Shape,
    Sizes,
    fused_qkv,
    pair,
    same,
    transposed,
    vocabulary,
)


class HfGpt2(Decoder):
    """`GPT2LMHeadModel`; its linear layers store their weights transposed."""

    prefix, heads = "GPT2", ("LMHeadModel",)
    base = "transformer."
    ignored = (".attn.bias", ".attn.masked_bias")

    def obstacles(self, config: DecoderConfig) -> list[str]:
        found = obstacle(config, "position_embedding", "learned")
        found += obstacle(config, "normalization", "layernorm")
        found += obstacle(config, "activation", *THEIR_ACTIVATIONS)
        if query_groups(config.model) != config.model.num_attention_heads:
            found.append(f"model.num_query_groups: {config.model.num_query_groups}")
        return found

    def links(self, config: DecoderConfig, vocab_size: int) -> Iterator[ParamMapping]:
        model, sizes = config.model, Sizes.of(config.model, vocab_size)
        hidden, ffn = sizes.hidden, sizes.ffn
        yield vocabulary("embedding.word_embeddings.weight", "transformer.wte.weight", sizes, hidden)
        length = config.batch.sequence_length
        yield same("embedding.position_embeddings.weight", "transformer.wpe.weight", length, hidden)
        for number in range(model.num_layers):
            ours, theirs = f"decoder.layers.{number}.", f"transformer.h.{number}."
            yield from pair(f"{ours}input_layernorm", f"{theirs}ln_1", hidden)
            yield fused_qkv(
                f"{ours}self_attention.linear_qkv.weight", f"{theirs}attn.c_attn.weight", sizes, bias=False
            )
            yield transposed(
                f"{ours}self_attention.linear_proj.weight", f"{theirs}attn.c_proj.weight", hidden, hidden
            )
            yield from pair(f"{ours}pre_mlp_layernorm", f"{theirs}ln_2", hidden)
            yield transposed(f"{ours}mlp.linear_fc1.weight", f"{theirs}mlp.c_fc.weight", ffn, hidden)
            yield transposed(f"{ours}mlp.linear_fc2.weight", f"{theirs}mlp.c_proj.weight", hidden, ffn)
            if model.bias:
                yield fused_qkv(
                    f"{ours}self_attention.linear_qkv.bias", f"{theirs}attn.c_attn.bias", sizes, bias=True
                )
                yield same(f"{ours}self_attention.linear_proj.bias", f"{theirs}attn.c_proj.bias", hidden)
                yield same(f"{ours}mlp.linear_fc1.bias", f"{theirs}mlp.c_fc.bias", ffn)
                yield same(f"{ours}mlp.linear_fc2.bias", f"{theirs}mlp.c_proj.bias", hidden)
        yield from pair("decoder.final_layernorm", "transformer.ln_f", hidden)
        if not model.tie_embeddings:
            yield vocabulary("output_layer.weight", "lm_head.weight", sizes, hidden)

    def zeros(self, config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
        hidden, ffn = config.model.hidden_size, ffn_hidden_size(config.model)
        sizes = {"attn.c_attn": 3 * hidden, "attn.c_proj": hidden, "mlp.c_fc": ffn, "mlp.c_proj": hidden}
        for number in range(0 if config.model.bias else config.model.num_layers):
            for name, size in sizes.items():
                yield f"transformer.h.{number}.{name}.bias", (size,)

    def copies(self, config: DecoderConfig) -> Mapping[str, str]:
        return {"lm_head.weight": "transformer.wte.weight"} if config.model.tie_embeddings else {}

    def their_config(self, config: DecoderConfig, vocab_size: int, ids: Mapping[str, int]) -> dict[str, Any]:
        model = config.model
        return {
            "vocab_size": vocab_size,
            "n_positions": config.batch.sequence_length,
            "n_embd": model.hidden_size,
            "n_layer": model.num_layers,
            "n_head": model.num_attention_heads,
            "n_inner": ffn_hidden_size(model),
            "activation_function": THEIR_ACTIVATIONS[model.activation],
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.dropout,
            "layer_norm_epsilon": model.norm_epsilon,
            "initializer_range": model.init_std,
            "tie_word_embeddings": model.tie_embeddings,
            "bos_token_id": ids.get("eos"),
            "eos_token_id": ids.get("eos"),
        }

    def our_keys(self, theirs: Any, names: frozenset[str]) -> dict[str, dict[str, Any]]:
        supports(theirs, theirs.scale_attn_weights, True, key="scale_attn_weights")
        supports(theirs, theirs.scale_attn_by_inverse_layer_idx, False, key="scale_attn_by_inverse_layer_idx")
        supports(theirs, theirs.add_cross_attention, False, key="add_cross_attention")
        model = {
            "kind": "gpt",
            "num_layers": theirs.n_layer,
            "hidden_size": theirs.n_embd,
            "num_attention_heads": theirs.n_head,
            "ffn_hidden_size": theirs.n_inner or 4 * theirs.n_embd,
            "activation": activation(theirs, "activation_function"),
            "dropout": common_dropout(theirs.resid_pdrop, theirs.embd_pdrop, theirs.attn_pdrop),
            "norm_epsilon": theirs.layer_norm_epsilon,
            "init_std": theirs.initializer_range,
            "tie_embeddings": theirs.tie_word_embeddings,
        }
        return {"model": model, "batch": {"sequence_length": theirs.n_positions}}
