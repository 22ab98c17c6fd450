"""Shapes of published decoders against transformers, in one process: prints how far logits are apart.

Output: {shape: {"apart": {how they were computed: largest difference}, "without": {key: the same of a model
that has the default instead}}}.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from config_files import small_config

from pretrain.config.sections import GptConfig, ParallelConfig
from pretrain.data.batch import plain_positions
from pretrain.distributed.world import init_distributed
from pretrain.gpt.decoding import Decoder
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.parallel_dims import ParallelDims, build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel

VOCABULARY, LENGTH, HEADS, GROUPS, LAYERS = 61, 96, 4, 2, 3
OTHER_NUMBERS = {
    "activation",
    "attention_scale",
    "attention_softcap",
    "logit_softcap",
    "rotary_attention_factor",
    "rotary_fast_turns",
    "rotary_fraction",
    "rotary_scaling",
    "rotary_slow_turns",
    "scale_embeddings",
    "window",
    "window_pattern",
}
"""Keys that change numbers and no weights."""
LLAMA_NORMS = {"input_layernorm": "input_layernorm", "pre_mlp_layernorm": "post_attention_layernorm"}
QK_NORMS = {
    "self_attention.q_layernorm": "self_attn.q_norm",
    "self_attention.k_layernorm": "self_attn.k_norm",
}
OUTPUT_NORMS = {
    "self_attn_bda.norm": "post_attention_layernorm",
    "mlp_bda.norm": "post_feedforward_layernorm",
}
LLAMA = {
    "position_embedding": "rotary",
    "normalization": "rmsnorm",
    "activation": "swiglu",
    "bias": False,
    "tie_embeddings": False,
}


@dataclass(frozen=True)
class Shape:
    """A model of theirs, and the same in our keys."""

    prefix: str
    theirs: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=lambda: LLAMA_NORMS)
    norm_offset: float = 0.0
    """What their norms add to the weight."""


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


SCALED = {"rotary_base": 100, "rotary_scaling_factor": 4.0}
BY_TURNS = {**SCALED, "rotary_original_length": 24}
SHAPES = {
    "llama linear": Shape("Llama", rope("linear", factor=4.0), {**SCALED, "rotary_scaling": "linear"}),
    "llama 3": Shape(
        "Llama",
        rope(
            "llama3",
            factor=4.0,
            low_freq_factor=0.5,
            high_freq_factor=3.0,
            original_max_position_embeddings=24,
        ),
        {**BY_TURNS, "rotary_scaling": "llama3", "rotary_slow_turns": 0.5, "rotary_fast_turns": 3.0},
    ),
    "llama yarn": Shape(
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=24, beta_fast=2, beta_slow=0.5),
        {**BY_TURNS, "rotary_scaling": "yarn", "rotary_slow_turns": 0.5, "rotary_fast_turns": 2.0},
    ),
    "llama yarn factor": Shape(
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=24, attention_factor=1.3),
        {**BY_TURNS, "rotary_scaling": "yarn", "rotary_attention_factor": 1.3},
    ),
    "llama geglu": Shape("Llama", {"hidden_act": "gelu"}, {"activation": "geglu"}),
    "mistral": Shape("Mistral", {"sliding_window": 7}, {"window": 7}),
    "qwen 2": Shape(
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        {"qkv_bias": True, "window": 9, "window_pattern": ["full", "window", "window"]},
    ),
    "qwen 3": Shape("Qwen3", {"head_dim": 24}, {"head_size": 24, "qk_norm": "head"}, LLAMA_NORMS | QK_NORMS),
    "olmo 2": Shape("Olmo2", {}, {"qk_norm": "whole", "norm_position": "output"}, OUTPUT_NORMS | QK_NORMS),
    "gemma 2": Shape(
        "Gemma2",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "sliding_window": 11,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 2.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        },
        {
            "head_size": 24,
            "attention_scale": 20**-0.5,
            "window": 11,
            "window_pattern": ["window", "full"],
            "attention_softcap": 0.5,
            "logit_softcap": 2.0,
            "activation": "geglu_tanh",
            "norm_position": "both",
            "scale_embeddings": True,
            "tie_embeddings": True,
        },
        OUTPUT_NORMS
        | {"input_layernorm": "input_layernorm", "pre_mlp_layernorm": "pre_feedforward_layernorm"},
        norm_offset=1.0,
    ),
    "stablelm": Shape(
        "StableLm",
        rope("default", partial_rotary_factor=0.5),
        {"rotary_base": 100, "rotary_fraction": 0.5, "normalization": "layernorm"},
    ),
}


def their_model(shape: Shape) -> Any:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": LENGTH,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "rms_norm_eps": 1e-5,
        "attn_implementation": "eager",
    }
    config = getattr(transformers, f"{shape.prefix}Config")(**settings | shape.theirs)
    torch.manual_seed(1)
    model = getattr(transformers, f"{shape.prefix}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


def our_config(shape: Shape) -> GptConfig:
    keys = {
        "num_layers": LAYERS,
        "hidden_size": 64,
        "num_attention_heads": HEADS,
        "num_query_groups": GROUPS,
        "ffn_hidden_size": 80,
    }
    model = {f"model__{key}": value for key, value in (LLAMA | keys | shape.ours).items()}
    return small_config(batch__sequence_length=LENGTH, **model)


def weights(shape: Shape, theirs: Any) -> dict[str, torch.Tensor]:
    """Their weights under our names."""
    from_them = theirs.state_dict()
    found = {"embedding.word_embeddings.weight": from_them["model.embed_tokens.weight"]}
    if not theirs.config.tie_word_embeddings:
        found["output_layer.weight"] = from_them["lm_head.weight"]
    norms = {"decoder.final_layernorm": "model.norm"}
    for layer in range(LAYERS):
        our, their = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        norms |= {our + one: their + other for one, other in shape.norms.items()}
        for kind in ("weight", "bias"):
            if (name := f"{their}self_attn.q_proj.{kind}") in from_them:
                parts = [from_them[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                groups = torch.cat([part.unflatten(0, (GROUPS, -1)) for part in parts], 1)
                found[f"{our}self_attention.linear_qkv.{kind}"] = groups.flatten(0, 1)
        found[f"{our}self_attention.linear_proj.weight"] = from_them[f"{their}self_attn.o_proj.weight"]
        gate, up, down = (from_them[f"{their}mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        found |= {f"{our}mlp.linear_fc1.weight": torch.cat([gate, up]), f"{our}mlp.linear_fc2.weight": down}
    for our, their in norms.items():
        for kind in ("weight", "bias"):
            if f"{their}.{kind}" in from_them:
                found[f"{our}.{kind}"] = from_them[f"{their}.{kind}"] + shape.norm_offset
    return found


def our_model(layout: ParallelDims, config: GptConfig, given: dict[str, torch.Tensor]) -> PipelineModel:
    model = PipelineModel(config, layout, VOCABULARY, GptSpec(config, layout), training=False)
    (chunk,) = model.chunks
    chunk.eval()
    assert dict(chunk.named_parameters()).keys() == given.keys()
    for name, parameter in chunk.named_parameters():
        parameter.zero_()
        parameter[: len(given[name])] = given[name]
    return model


@torch.no_grad()
def compare(layout: ParallelDims, shape: Shape) -> dict[str, dict[str, float]]:
    theirs = their_model(shape)
    given = weights(shape, theirs)
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    expected = theirs(tokens).logits

    def logits(model: PipelineModel) -> torch.Tensor:
        return model.chunks[0](tokens, plain_positions(2, LENGTH), None)[..., :VOCABULARY]  # type: ignore[no-any-return]

    def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
        return float((found - wanted).abs().max())

    model = our_model(layout, our_config(shape), given)
    with Decoder(model, 2, LENGTH) as decoder:
        cached = [decoder.next_logits(tokens[:, :stop].tolist()) for stop in range(5, LENGTH + 1)]
    with Decoder(model, 2, LENGTH) as decoder:
        texts = [tokens[0].tolist(), tokens[1, 40:].tolist()]
        padded = [decoder.next_logits([text[: len(text) - 2 + more] for text in texts]) for more in (1, 2)]
    ends = torch.stack([expected[0, -2:], theirs(tokens[1:, 40:]).logits[0, -2:]], 1)
    found = {
        "whole": apart(logits(model), expected),
        "cached": apart(torch.stack(cached, 1), expected[:, 4:]),
        "padded": apart(torch.stack(padded), ends),
    }
    without = {}
    for key in shape.ours.keys() & OTHER_NUMBERS:
        fewer = {name: value for name, value in shape.ours.items() if name != key}
        without[key] = apart(
            logits(our_model(layout, our_config(replace(shape, ours=fewer)), given)), expected
        )
    return {"apart": found, "without": without}


def main() -> None:
    with init_distributed() as world:
        layout = build_parallel_dims(world, ParallelConfig())
        print(json.dumps({name: compare(layout, shape) for name, shape in SHAPES.items()}))


if __name__ == "__main__":
    main()
