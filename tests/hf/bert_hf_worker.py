"""Copy the weights of our BERT into Hugging Face's and print, as JSON, how far logits and sizes are apart."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor

from pretrain.distributed.world import init_distributed

CONFIGS = Path(__file__).parents[2] / "configs" / "bert"
LAYERS, HIDDEN, HEADS, LENGTH, VOCAB = 3, 64, 4, 48, 211


def config_for(norm_position: str) -> Any:
    from pretrain.config.sections import BertConfig

    return BertConfig.model_validate(
        {
            "run": {"dir": "run", "steps": 1},
            "model": {
                "kind": "bert",
                "num_layers": LAYERS,
                "hidden_size": HIDDEN,
                "num_attention_heads": HEADS,
                "norm_position": norm_position,
            },
            "batch": {"global_size": 2, "sequence_length": LENGTH},
            "optimizer": {"lr": 1e-3},
            "data": {"train": ({"path": "shards"},)},
        }
    )


def hugging_face(norm_position: str) -> Any:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * HIDDEN,
        "max_position_embeddings": LENGTH,
        "layer_norm_eps": 1e-12,
        "pad_token_id": None,
    }
    if norm_position == "post":
        return transformers.BertForPreTraining(transformers.BertConfig(**sizes))
    return transformers.MegatronBertForPreTraining(transformers.MegatronBertConfig(**sizes))


def names(norm_position: str) -> dict[str, str]:
    """Our module -> theirs, for all but the fused query, key and value."""
    found = {
        "embedding.word_embeddings": "bert.embeddings.word_embeddings",
        "embedding.position_embeddings": "bert.embeddings.position_embeddings",
        "embedding.tokentype_embeddings": "bert.embeddings.token_type_embeddings",
        "pooler": "bert.pooler.dense",
        "next_sentence": "cls.seq_relationship",
        "masked_head.dense": "cls.predictions.transform.dense",
        "masked_head.norm": "cls.predictions.transform.LayerNorm",
        "output_layer": "cls.predictions",
    }
    layer = {
        "self_attention.linear_proj": "attention.output.dense",
        "mlp.linear_fc1": "intermediate.dense",
        "mlp.linear_fc2": "output.dense",
    }
    if norm_position == "post":
        found["embedding.embedding_dropout.norm"] = "bert.embeddings.LayerNorm"
        layer |= {
            "self_attn_bda.norm": "attention.output.LayerNorm",
            "mlp_bda.norm": "output.LayerNorm",
        }
    else:
        found["encoder.final_layernorm"] = "bert.encoder.ln"
        layer |= {"input_layernorm": "attention.ln", "pre_mlp_layernorm": "ln"}
    for index in range(LAYERS):
        for ours, theirs in layer.items():
            found[f"encoder.layers.{index}.{ours}"] = f"bert.encoder.layer.{index}.{theirs}"
    return found


def translated(norm_position: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under their names; each of ours is used."""
    modules = names(norm_position)
    found = {}
    for name, weight in weights.items():
        module, kind = name.rsplit(".", 1)
        if module.endswith("linear_qkv"):
            layer = module.split(".")[2]
            parts = weight.view(HEADS, 3, HIDDEN // HEADS, *weight.shape[1:])
            for index, which in enumerate(("query", "key", "value")):
                theirs = f"bert.encoder.layer.{layer}.attention.self.{which}.{kind}"
                found[theirs] = parts[:, index].reshape(HIDDEN, *weight.shape[1:])
        else:
            rows = VOCAB if "word_embeddings" in module or module == "output_layer" else None
            found[f"{modules[module]}.{kind}"] = weight[:rows]
    found["cls.predictions.decoder.weight"] = found["bert.embeddings.word_embeddings.weight"]
    found["cls.predictions.decoder.bias"] = found["cls.predictions.bias"]
    return found


@torch.no_grad()
def compare(norm_position: str, layout: Any) -> dict[str, Any]:
    from pretrain.bert.model import build_bert
    from pretrain.megatron.pipeline import seed_step

    config = config_for(norm_position)
    seed_step(1, 0, layout)
    (ours,), _ = build_bert(config, layout, VOCAB)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in ours.named_parameters():
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.copy_(around + 0.1 * torch.randn(parameter.shape, generator=generator))
    theirs = hugging_face(norm_position)
    wrong = theirs.load_state_dict(translated(norm_position, dict(ours.named_parameters())), strict=False)
    ours.eval()
    theirs.eval()

    tokens = torch.randint(0, VOCAB, (2, LENGTH), generator=generator)
    positions = torch.arange(LENGTH).expand(2, LENGTH)
    types = (positions > LENGTH // 2).long()
    real = positions < torch.tensor([[LENGTH], [LENGTH - 9]])
    flat = real.t().flatten().nonzero()[:, 0]
    logits, sentences = ours(tokens, types, positions, real[:, None, None], flat)
    expected = theirs(input_ids=tokens, attention_mask=real.long(), token_type_ids=types)
    chosen = expected.prediction_logits.transpose(0, 1).flatten(0, 1)[flat]
    return {
        "masked": float((logits[:, :VOCAB] - chosen).abs().max()),
        "next_sentence": float((sentences - expected.seq_relationship_logits).abs().max()),
        "scale": float(chosen.abs().max()),
        "padding": bool((logits[:, VOCAB:] == -torch.inf).all()),
        "missing": [*wrong.missing_keys, *wrong.unexpected_keys],
    }


def sizes(name: str, layout: Any) -> dict[str, int]:
    """Parameters of a shipped config with the published vocabulary, none of them in memory."""
    from pretrain.bert.model import build_bert
    from pretrain.config.derived import count_parameters, padded_vocab_size
    from pretrain.config.load import read_config

    config: Any = read_config(str(CONFIGS / f"{name}.yaml")).config
    vocabulary, model = 30522, config.model
    with torch.device("meta"), mock.patch.object(torch.nn.Module, "to", lambda module, **_: module):
        (ours,), _ = build_bert(config, layout, vocabulary)
        theirs = transformers.BertForPreTraining(
            transformers.BertConfig(
                hidden_size=model.hidden_size,
                num_hidden_layers=model.num_layers,
                num_attention_heads=model.num_attention_heads,
                intermediate_size=4 * model.hidden_size,
            )
        )
    rows = padded_vocab_size(vocabulary, model.vocab_multiple)
    padding = (rows - vocabulary) * (model.hidden_size + 1)
    return {
        "ours": sum(part.numel() for part in ours.parameters()) - padding,
        "by formula": count_parameters(config, vocabulary).total,
        "theirs": theirs.num_parameters(),
    }


def main() -> None:
    from pretrain.config.sections import ParallelConfig
    from pretrain.megatron.parallel_dims import build_parallel_dims

    with init_distributed() as world:
        layout = build_parallel_dims(world, ParallelConfig())
        found = {position: compare(position, layout) for position in ("pre", "post")}
        parameters = {name: sizes(name, layout) for name in ("base", "large")}
        print(json.dumps({**found, "parameters": parameters}))


if __name__ == "__main__":
    main()
