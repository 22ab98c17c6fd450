"""Each architecture of the table, with random weights of transformers: there and back; what is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from pretrain.checkpoint import open_checkpoint
from pretrain.errors import UserError
from pretrain.hf.architecture import NOTES
from pretrain.hf.exporter import export_command
from pretrain.hf.importer import import_command
from pretrain.hf.registry import ARCHITECTURES

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
GROUPED = SIZES | {"num_key_value_heads": 2}


def rope(kind: str, **values: Any) -> dict[str, Any]:
    """Positions up to 96 are beyond the 16 that the model was first trained on, so that a scaling shows."""
    return GROUPED | {"rope_parameters": {"rope_type": kind, "rope_theta": 5e3, "factor": 8.0, **values}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": (
        "GPT2LMHeadModel",
        {"vocab_size": 61, "n_positions": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40},
    ),
    "Llama 2": ("LlamaForCausalLM", SIZES),
    "Llama with biases, tied": (
        "LlamaForCausalLM",
        GROUPED | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "Llama 3.1": (
        "LlamaForCausalLM",
        rope("llama3", original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "YaRN": ("LlamaForCausalLM", rope("yarn", original_max_position_embeddings=16)),
    "YaRN with numbers of its own": (
        "Qwen3ForCausalLM",
        rope("yarn", original_max_position_embeddings=16, beta_fast=16, beta_slow=2, attention_factor=1.5)
        | {"head_dim": 16},
    ),
    "linear": ("LlamaForCausalLM", rope("linear")),
    "Mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": None, "head_dim": 12}),
    "Mistral with a window": ("MistralForCausalLM", GROUPED | {"sliding_window": 20}),
    "Qwen2.5": ("Qwen2ForCausalLM", GROUPED | {"tie_word_embeddings": True}),
    "Qwen2 with windows in its last layers": (
        "Qwen2ForCausalLM",
        GROUPED | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "Qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 16, "tie_word_embeddings": True}),
    "OLMo 2": ("Olmo2ForCausalLM", GROUPED),
    "Gemma 2": (
        "Gemma2ForCausalLM",
        GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 20},
    ),
    "Gemma 2 without caps and windows": (
        "Gemma2ForCausalLM",
        GROUPED
        | {"head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": ["full_attention"] * 3}
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "BERT": ("BertForPreTraining", SIZES | {"pad_token_id": None}),
    "BERT without pairs": ("BertForMaskedLM", SIZES | {"hidden_act": "gelu_new"}),
    "Megatron's BERT": ("MegatronBertForPreTraining", SIZES | {"pad_token_id": None}),
}


def made(folder: Path, name: str, values: dict[str, Any]) -> Path:
    """A model of transformers whose norms and biases are random, too."""
    torch.manual_seed(7)
    kind = getattr(hf, name)
    model = kind(kind.config_class(**values))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    hf.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_are_equal_and_weights_come_back_bit_by_bit(tmp_path: Path, case: str) -> None:
    """The import and the export compare logits themselves; here in fp32, with shards of 20 kB."""
    name, values = CASES[case]
    source = made(tmp_path / "theirs", name, values)
    import_command(str(source), str(tmp_path / "run"))
    export_command(str(tmp_path / "run"), str(tmp_path / "back"), 20_000, tokenizer=True)
    there = load_file(source / "model.safetensors")
    back: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "back").glob("*.safetensors"):
        back |= load_file(file)
    assert there.keys() == back.keys()
    assert all(torch.equal(there[key], back[key]) for key in there)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "back")]
    if configs[0]["architectures"] == configs[1]["architectures"]:
        silent = {"bos_token_id", "eos_token_id", "pad_token_id", "max_window_layers"}
        for key in (configs[0].keys() | configs[1].keys()) - silent:
            assert configs[0].get(key) == pytest.approx(configs[1].get(key)), key


@pytest.mark.slow
def test_a_bert_without_heads_gets_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As MiniLM is published: with a pooler, and without what predicts tokens."""
    source = made(tmp_path / "theirs", "BertModel", SIZES | {"pad_token_id": None})
    import_command(str(source), str(tmp_path / "run"))
    assert "drawn at random, since a BertModel has none: masked_head, output_layer" in capsys.readouterr().out
    run = open_checkpoint(tmp_path / "run/checkpoints/step-00000000")
    there = load_file(source / "model.safetensors")
    assert torch.equal(run.read("pooler.weight"), there["pooler.dense.weight"])
    assert float(run.read("masked_head.dense.weight").std()) == pytest.approx(0.02, rel=0.2)
    assert torch.equal(run.read("masked_head.norm.weight"), torch.ones(32))


def fields_of(architecture: Any) -> set[str]:
    """Those that the config class of an architecture declares, and nobody else's."""
    config = getattr(hf, architecture.classes[0]).config_class
    return {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.classes[0])
def test_every_field_of_a_config_has_a_meaning_or_is_known_to_have_none(architecture: Any) -> None:
    known = NOTES.union(*(part.fields for part in architecture.parts))
    assert fields_of(architecture) - known == set()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another activation": ("Llama 2", {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    "a scaling without end": ("Llama 2", {"rope_parameters": rope("dynamic")["rope_parameters"]}, "dynamic"),
    "a scaling of old files": ("Llama 2", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    "a number of a scaling": (
        "Llama 2",
        {"rope_parameters": rope("linear", mscale=0.7)["rope_parameters"]},
        "rope_parameters.mscale: 0.7 is not known here",
    ),
    "a field of nobody": ("Llama 2", {"logit_scale": 0.5}, "logit_scale: 0.5 is not known here"),
    "code of its own": ("Llama 2", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map: {'AutoModel': 'x.Y'}"),
    "a fraction of a base": (
        "Llama 2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10.5}},
        "the fraction of rope_parameters.rope_theta",
    ),
    "chunks": (
        "Qwen2.5",
        {"layer_types": ["chunked_attention"] * 3, "use_sliding_window": True},
        "layer_types: 'chunked_attention'",
    ),
    "biases of one half": ("Llama 2", {"attention_bias": True}, "mlp_bias: False"),
    "biases": ("Qwen3", {"attention_bias": True}, "attention_bias: True"),
    "attention by layer": ("GPT-2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse"),
    "three segments": ("BERT", {"type_vocab_size": 3}, "type_vocab_size: 3"),
    "relative positions": ("BERT", {"position_embedding_type": "relative_key"}, "'relative_key'"),
    "no number": ("Llama 2", {"rms_norm_eps": "small"}, "config.json"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each case, made once."""
    place = tmp_path_factory.mktemp("models")

    def folder(case: str) -> Path:
        path = place / case
        return path if path.is_dir() else made(path, *CASES[case])

    return folder


@pytest.mark.parametrize("why", REFUSED)
def test_what_would_change_a_number_is_refused(
    folders: Callable[[str], Path], tmp_path: Path, why: str
) -> None:
    case, values, said = REFUSED[why]
    folder = tmp_path / "theirs"
    folder.mkdir()
    for file in folders(case).iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | values
    if "rope_scaling" in values:
        del config["rope_parameters"]
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        import_command(str(folder), str(tmp_path / "run"))
    assert said in str(caught.value) and "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
