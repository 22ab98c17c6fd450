"""What `pretrain import` and `pretrain export` refuse, in one message that names file, tensor and value."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from config_files import small_config
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from data_tools.tokenizer import byte_tokenizer
from pretrain.errors import IntegrityError, UserError
from pretrain.hf.decoders import LLAMA
from pretrain.hf.exporter import export_command
from pretrain.hf.importer import import_command
from pretrain.hf.registry import architecture_of

WEIGHTS = "model.safetensors"
NORM = "model.layers.0.input_layernorm.weight"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("made") / "llama"
    config = transformers.LlamaConfig(
        vocab_size=31,
        max_position_embeddings=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def refused(folder: Path, *parts: str, error: type[UserError] = UserError) -> None:
    out = folder.parent / "out"
    with pytest.raises(error) as caught:
        import_command(str(folder), str(out))
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "something was left behind"


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def set_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    found = {**load_file(folder / WEIGHTS), **{name.replace("__", "."): t for name, t in tensors.items()}}
    save_file({name: t for name, t in found.items() if t is not None}, folder / WEIGHTS, {"format": "pt"})


def test_an_architecture_that_is_not_known(model: Path) -> None:
    set_config(model, architectures=["MambaForCausalLM"], model_type="mamba")
    refused(model, "config.json: architecture MambaForCausalLM is not supported", "LlamaForCausalLM")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_act": "relu"}, "hidden_act: 'relu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "'dynamic'"),
        ({"residual_multiplier": 0.5}, "residual_multiplier: 0.5 is not known here"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not 'llama'"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "config.json"),
    ],
)
def test_an_option_that_ours_has_not(model: Path, values: dict[str, Any], said: str) -> None:
    set_config(model, **values)
    refused(model, "config.json", said)


def test_tensors_missing_too_many_or_of_another_shape(model: Path) -> None:
    set_tensors(model, model__layers__0__input_layernorm__weight=None)
    refused(model, f"{model}: holds no tensor {NORM} [16]")
    set_tensors(model, model__layers__0__input_layernorm__weight=torch.ones(17))
    refused(model, f"{model / WEIGHTS}: {NORM} is [17]; by config.json it is [16]")
    set_tensors(model, model__layers__0__input_layernorm__weight=torch.ones(16), extra=torch.ones(3))
    refused(model, f"{model / WEIGHTS}: extra [3] has no place")
    set_tensors(model, extra=None, model__norm__weight=torch.ones(16, dtype=torch.int8))
    refused(model, f"{model / WEIGHTS}: model.norm.weight is I8")


def test_a_tied_head_that_differs(model: Path) -> None:
    set_config(model, tie_word_embeddings=True)
    refused(model, f"{model / WEIGHTS}: lm_head.weight differs from model.embed_tokens.weight")


def test_a_pickle_that_runs_code(model: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(model / "hacked"),)

    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    refused(model, f"{model}: holds no weights; expected {WEIGHTS}")
    path = model / "pytorch_model.bin"
    torch.save({**tensors, "evil": Evil()}, path)
    refused(model, f"{path}: is a pickle that holds more than tensors")
    path.write_bytes(pickle.dumps(Evil()))
    refused(model, f"{path}: is a pickle that holds more than tensors")
    assert not (model / "hacked").exists()
    torch.save(tensors, path)
    import_command(str(model), str(model.parent / "run"))  # nothing but tensors


def test_names_of_old_checkpoints(tmp_path: Path) -> None:
    """As the published gpt2 and bert-base-uncased have them: no prefix, a mask's buffer; gamma and beta."""
    import transformers as hf

    gpt2 = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    gpt2.save_pretrained(tmp_path / "gpt2")
    tensors = {
        name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "gpt2" / WEIGHTS).items()
    }
    save_file(
        {**tensors, "h.0.attn.bias": torch.ones(1, 1, 16, 16)}, tmp_path / "gpt2" / WEIGHTS, {"format": "pt"}
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    bert = hf.BertForPreTraining(hf.BertConfig(vocab_size=31, max_position_embeddings=16, **sizes))
    bert.save_pretrained(tmp_path / "bert")
    set_config(tmp_path / "bert", architectures=["BertForMaskedLM"])
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in load_file(tmp_path / "bert" / WEIGHTS).items()
    }
    save_file(renamed, tmp_path / "bert" / WEIGHTS, {"format": "pt"})
    for name in ("gpt2", "bert"):
        import_command(str(tmp_path / name), str(tmp_path / f"{name}-run"))


def test_files_that_are_damaged(model: Path) -> None:
    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(whole[:-8])
    refused(model, str(model / WEIGHTS), error=IntegrityError)
    (model / WEIGHTS).write_bytes(whole)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: "../x"}}))
    refused(model, "names '../x'", error=IntegrityError)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NORM: WEIGHTS}}))
    refused(model, f"{model / WEIGHTS}: holds tensor", "says otherwise", error=IntegrityError)


def test_a_tokenizer_of_another_model(model: Path) -> None:
    byte_tokenizer().save(model / "pretrain-tokenizer")
    refused(model, "pretrain-tokenizer: the tokenizer has 257 ids and the embedding 31 rows")
    shutil.rmtree(model / "pretrain-tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    refused(model, "tokenizer.json: the tokenizer has 257 ids and the embedding 31 rows")


def test_logits_that_differ_end_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fc1 = "decoder.layers.*.mlp.linear_fc1"
    monkeypatch.setitem(LLAMA.names, fc1, LLAMA.names[fc1][::-1])  # type: ignore[arg-type]
    refused(model, "the logits of the two models differ by", error=IntegrityError)


def test_what_export_refuses(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(model.parent / "run"), model.parent / "out"
    import_command(str(model), run)
    assert "no tokenizer came along" in capsys.readouterr().out
    with pytest.raises(UserError, match="llama: is there already, and not an empty folder"):
        export_command(run, str(model), None, tokenizer=True)
    export_command(run, str(out), 4000, tokenizer=True)
    assert "without tokenizer" in capsys.readouterr().out
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    import_command(str(out), str(model.parent / "back"))
    with pytest.raises(UserError, match="does not exist"):
        export_command(f"{run}/checkpoints/step-00000001", str(model.parent / "x"), None, tokenizer=True)


def test_a_model_without_a_counterpart_names_what_is_in_the_way() -> None:
    with pytest.raises(UserError) as caught:
        architecture_of(small_config(model__position_embedding="rotary", model__activation="swiglu"))
    assert "LlamaForCausalLM is nearest, and has no place for model.normalization: layernorm" in str(
        caught.value
    )
    assert architecture_of(small_config(model__bias=False)).class_of(small_config()) == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 10**9}, r"model\.num_layers: Input should be less than or equal to 2000"),
        ({"num_labels": 10**9}, r"config\.json: num_labels is 1000000000; at most 100,000 are supported"),
    ],
)
def test_numbers_without_an_end_are_refused(
    made: Path, tmp_path: Path, values: dict[str, int], said: str
) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(made, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(UserError, match=said):
        import_command(str(folder), str(tmp_path / "out"))
