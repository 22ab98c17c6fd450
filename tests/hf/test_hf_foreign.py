"""An export of a run in bf16, and an import with a sentencepiece model that was made elsewhere."""

import hashlib
import io
import unicodedata
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from ranks import run_pretrain
from text_shards import build_shards
from tokenizers import normalizers

from data_tools.embedded import language_reference
from data_tools.tokenizer import byte_tokenizer
from data_tools.tokenizers.trial_texts import trial_texts
from pretrain.checkpoint import open_checkpoint
from pretrain.checkpoint.tokenizer import load_tokenizer
from pretrain.errors import UserError
from pretrain.hf.exporter import export_command
from pretrain.hf.foreign_tokenizer import find_tokenizer
from pretrain.hf.importer import import_command
from pretrain.hf.tokenizer import OURS, as_library_tokenizer, prove
from pretrain.megatron.restore import TOKENIZER_FOLDER
from pretrain.run.folder import RunFolder
from pretrain.run.status import actual_status

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
    done = run_pretrain("train", tmp_path / "config.yaml")
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
    settings = {
        "model_type": "bpe",
        "vocab_size": VOCABULARY,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 3,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(next(text for _, text in language_reference()).splitlines()),
        model_writer=model,
        **{**settings, **options},
    )
    return model.getvalue()


def llama(folder: Path, rows: int) -> Path:
    """A small Llama with an embedding of so many rows, as transformers saves it."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=rows,
        max_position_embeddings=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


AS_OURS = {"add_dummy_prefix": False}


@pytest.mark.parametrize(
    ("options", "loss"),
    [
        (AS_OURS, r"'\u2581' comes back as ' '"),
        (
            {**AS_OURS, "user_defined_symbols": ["<pad>", "a b", "\u2581\u2581"]},
            r"'\u2581' comes back as ' '",
        ),
        ({}, r"'\u2581' comes back as ' '"),
        ({"remove_extra_whitespaces": True}, "' ' comes back as ''"),
        ({"normalization_rule_name": "nfkc"}, r"'\ufb01' comes back as 'fi'"),
        ({"byte_fallback": False}, "comes back as"),
    ],
)
def test_a_sentencepiece_model_comes_along_and_what_it_changes_is_said(
    tmp_path: Path, options: dict[str, Any], loss: str
) -> None:
    model = sentencepiece_model(**options)
    (tmp_path / "tokenizer.model").write_bytes(model)
    found = find_tokenizer(tmp_path, VOCABULARY)
    assert found.tokenizer is not None and not found.is_ours
    assert found.tokenizer.fingerprint == hashlib.sha256(model).hexdigest()
    assert (
        loss in found.tokenizer.loss and f"the tokenizer changes texts: {found.tokenizer.loss}" in found.notes
    )


def test_an_import_keeps_the_tokenizer_or_what_can_be_known_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that pad the embedding stand for no text; files that only transformers can convert stay behind."""
    model = sentencepiece_model(**AS_OURS)
    for name, rows, kept in (
        ("same", VOCABULARY, True),
        ("padded", VOCABULARY + 4, True),
        ("old", 400, False),
    ):
        folder = llama(tmp_path / name, rows)
        (folder / ("tokenizer.model" if kept else "vocab.txt")).write_bytes(model)
        (folder / "added_tokens.json").write_text('{"<pad>": 420}')
        import_command(str(folder), str(tmp_path / f"{name}-run"))
        said = capsys.readouterr().out
        assert ("with tokenizer" in said) == kept
        assert ("4 rows of the embedding stand for no text" in said) == (name == "padded")
        run = open_checkpoint(tmp_path / f"{name}-run/checkpoints/step-00000000")
        assert run.state["vocab_size"] == rows
        assert (f"{TOKENIZER_FOLDER}/original/tokenizer.model" in run.files) == kept
        status = actual_status(RunFolder(tmp_path / f"{name}-run"))
        assert status is not None and (status.state, status.step) == ("finished", 0)
        assert status.facts["imported_from"] == str(folder)
        assert status.run == run.state["run"]
        left = run.state.get("tokenizer_left_behind", {})
        assert left.get("vocab.txt") == (None if kept else hashlib.sha256(model).hexdigest())
        assert sorted(left) == ([] if kept else ["added_tokens.json", "vocab.txt"])
        with nullcontext() if kept else pytest.raises(UserError, match=r"stayed behind .*; train it on"):
            assert load_tokenizer(run).vocab_size == rows
    folder = llama(tmp_path / "fewer", VOCABULARY - 1)
    (folder / "tokenizer.model").write_bytes(model)
    with pytest.raises(UserError, match="has 420 ids and the embedding 419 rows: it is of another model"):
        import_command(str(folder), str(tmp_path / "fewer-run"))


@pytest.mark.parametrize("rows", [257, 260])
def test_a_template_stays_with_a_tokenizer_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    """That of a model that was given more rows stays behind; transformers can drop them."""
    folder = llama(tmp_path / "llama", rows)
    byte_tokenizer().save(folder / OURS)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    import_command(str(folder), str(tmp_path / "run"))
    said = capsys.readouterr().out
    files = open_checkpoint(tmp_path / "run/checkpoints/step-00000000").files
    assert ("chat_template.jinja" in files) == (rows == 257) == ("tokenizer/tokenizer.json" in files)
    assert ("resize_token_embeddings(257) of transformers drops them" in said) == (rows == 260)
    assert ("did not come along: it goes with its tokenizer" in said) == (rows == 260)


NORMALISERS = {
    "compatibility characters": lambda: normalizers.NFKC(),
    "combining marks": lambda: normalizers.NFC(),
    "spaces of other kinds": lambda: normalizers.Replace("\u3000", " "),
    "spaces at the ends": lambda: normalizers.Strip(left=False),
    "a control character": lambda: normalizers.Replace("\x00", ""),
    "a mark of direction": lambda: normalizers.Replace("\u200f", ""),
    "one rare ideograph": lambda: normalizers.Replace("\U00020000", "?"),
    "what another tokenizer calls special": lambda: normalizers.Replace("<|im_end|>", ""),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("what", NORMALISERS)
def test_a_tokenizer_is_tried_on_every_kind_of_text(tmp_path: Path, what: str) -> None:
    """Beside ours lies a tokenizer.json that differs in one thing only."""
    ours = byte_tokenizer()
    ours.save(tmp_path / OURS)
    library = as_library_tokenizer(ours, begins=True)
    if (normaliser := NORMALISERS[what]()) is not None:
        library.normalizer = normaliser
    library.save(str(tmp_path / "tokenizer.json"))
    found = find_tokenizer(tmp_path, ours.vocab_size)
    assert (found.tokenizer is None) == (what != "nothing"), found.why
    assert "make other tokens of a text than" in found.why or what == "nothing"
    if what != "nothing":
        with pytest.raises(UserError, match="cannot be had in Hugging Face's library"):
            prove(ours, library)  # as an export does


def test_the_trials_are_thousands_of_texts_in_which_every_character_stands() -> None:
    texts = list(trial_texts(["<own>"]))
    assert len(texts) > 2500 and texts == list(trial_texts(["<own>"]))
    characters = set("".join(texts))
    assert {chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000} <= characters
    assert {"<own>", " <own>", "a<own>b"} <= set(texts)
    assert {unicodedata.bidirectional(character) for character in characters} >= {"L", "R", "AL", "RLO", "BN"}
    assert max(map(len, texts)) > 2000  # longer than a segment
