"""An export of a run in bf16, and an import with a sentencepiece model that was made elsewhere."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from text_shards import build_shards

from data_tools.embedded import language_reference
from pretrain.checkpoint import open_checkpoint
from pretrain.folder import RunFolder
from pretrain.hf.exporter import export_command
from pretrain.hf.importer import import_command
from pretrain.restore import TOKENIZER_FOLDER
from pretrain.status import actual_status

pytestmark = pytest.mark.slow
VOCABULARY = 420


def test_a_run_in_bf16_goes_there_and_back(tmp_path: Path) -> None:
    import transformers

    build_shards(tmp_path / "shards", ["the quick brown fox jumps over the lazy dog. " * 5] * 6)
    config = {
        "run": {"dir": str(tmp_path / "run"), "steps": 2},
        "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 16, "num_attention_heads": 2},
        "precision": "bf16",
        "batch": {"global_size": 2, "sequence_length": 16},
        "optimizer": {"lr": 1e-2},
        "data": {"train": str(tmp_path / "shards")},
        "tracking": {"enabled": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pretrain", "train", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    export_command(str(tmp_path / "run"), str(tmp_path / "hf"), None, tokenizer=True)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == torch.bfloat16
    ours = open_checkpoint(tmp_path / "run/checkpoints/step-00000002")
    theirs = model.get_input_embeddings().weight
    assert torch.equal(theirs, ours.read("embedding.word_embeddings.weight")[: len(theirs)].bfloat16())
    import_command(str(tmp_path / "hf"), str(tmp_path / "back"))
    back = open_checkpoint(tmp_path / "back/checkpoints/step-00000000")
    keys = list(ours.keys("weights"))
    assert keys and set(keys) == set(back.keys("weights"))
    for key in keys:
        rows = slice(len(theirs) if key == "embedding.word_embeddings.weight" else None)  # without padding
        assert torch.equal(back.read(key)[rows], ours.read(key)[rows].bfloat16()), key


def sentencepiece_model(**options: Any) -> bytes:
    """As people train theirs for a Llama: pieces for bytes, <s> and </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(next(text for _, text in language_reference()).splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=3,
        **options,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"add_dummy_prefix": False, "allow_whitespace_only_pieces": True}, "with tokenizer"),
        ({}, "does not give every text back byte for byte"),  # a space before every text
    ],
)
def test_a_sentencepiece_model_of_others_comes_along_if_it_keeps_every_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], said: str
) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    model = sentencepiece_model(**options)
    (tmp_path / "llama/tokenizer.model").write_bytes(model)
    import_command(str(tmp_path / "llama"), str(tmp_path / "run"))
    assert said in capsys.readouterr().out
    kept = tmp_path / "run" / TOKENIZER_FOLDER / "tokenizer.model"
    assert kept.exists() == bool(options)
    assert not kept.exists() or kept.read_bytes() == model
    status = actual_status(RunFolder(tmp_path / "run"))
    assert status is not None and (status.state, status.step) == ("finished", 0)
    assert status.facts["imported_from"] == str(tmp_path / "llama")
