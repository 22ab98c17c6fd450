"""Round trips of any text, and tokenizers that are what their files say."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_tools.errors import IntegrityError, UserError
from data_tools.tokenizer import Tokenizer, byte_tokenizer
from data_tools.tokenizers import segments as module
from data_tools.tokenizers.segments import segments
from data_tools.train_tokenizer import sample, train_tokenizer, training_lines

AWKWARD = [
    "",
    " ",
    "   a  b ",
    "\n\n\n",
    "\r\n\t\x00\x01\x7f",
    "\u2581",
    "\u2581\u2581 \u2581x\u2581",
    "\u2585",
    "</s><s><unk><0x41><|endoftext|>",
    "\ufeffA\u0301 Å ﬁ ① \u3000\u200b",
    "\U0010ffff\ud7ff\ue000",
    "e\u0301" * 50,
]
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("\u2581 \n\t\x00<>/s0x41é", max_size=60)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "byte"])
def test_any_text_comes_back_byte_for_byte(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]

    @settings(max_examples=1000, deadline=None)
    @given(TEXT)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.eod_id not in ids
        assert all(0 <= value < tokenizer.vocab_size for value in ids)

    for text in AWKWARD:
        check = example(text)(check)
    check()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "byte"])
def test_long_texts(kind: str, tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    tokenizer = tokenizers[kind]
    for text in ("\n".join(texts) * 2, "x" * 50_000, " " * 50_000, ("\u2581" * 3 + " ") * 20_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch(texts[:2]) == [tokenizer.encode(text) for text in texts[:2]]


@settings(max_examples=500)
@given(st.text("ab \n", max_size=200), st.lists(st.integers(0, 200)), st.integers(1, 20))
def test_segments_do_not_depend_on_the_parts(text: str, places: list[int], limit: int) -> None:
    cuts = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    parts = [text[start:stop] for start, stop in pairwise(cuts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_CHARACTERS", limit)
        whole = list(segments([text]))
        assert "".join(whole) == text
        assert all(0 < len(segment) <= limit for segment in whole)
        assert list(segments(parts)) == whole


def test_segments_end_where_no_piece_can_span() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_CHARACTERS", 8)
        assert list(segments(["ab\ncd\nefgh"])) == ["ab\ncd\n", "efgh"]
        assert list(segments(["abc   defg"])) == ["abc", "   defg"]
        assert list(segments(["abcdefghij"])) == ["abcdefgh", "ij"]


def test_specials_decode_to_nothing(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode("a b")
        assert tokenizer.decode([tokenizer.eod_id, *ids, tokenizer.eod_id]) == "a b"
        with pytest.raises(UserError, match=f"token id {tokenizer.vocab_size} is outside"):
            tokenizer.decode([tokenizer.vocab_size])
        with pytest.raises(UserError, match="not valid Unicode"):
            tokenizer.encode("a\ud800")


def test_bytes_cut_in_a_character_do_not_fail() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


TRAIN = """
import sys
from itertools import pairwise
from data_tools.embedded import language_reference
from data_tools.train_tokenizer import train_tokenizer
for kind in ("bpe", "unigram", "char"):
    texts = [text[:4000] for _, text in language_reference()]
    print(train_tokenizer(texts, kind, 400 if kind != "char" else None).fingerprint)
"""


@pytest.mark.slow
def test_training_is_deterministic() -> None:
    run = [sys.executable, "-c", TRAIN]
    outputs = {
        subprocess.run(run, capture_output=True, check=True, env={"PYTHONHASHSEED": s}).stdout for s in "12"
    }
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 3


def test_vocabulary_too_large_names_the_largest(texts: list[str]) -> None:
    for kind in ("bpe", "unigram", "char"):
        with pytest.raises(UserError, match="largest possible is") as error:
            train_tokenizer(texts, kind, 50_000)
        largest = int(str(error.value).rsplit(" ", 1)[1])
        assert train_tokenizer(texts, kind, largest).vocab_size == largest


def test_vocabulary_too_small(texts: list[str]) -> None:
    with pytest.raises(UserError, match="smallest possible is"):
        train_tokenizer(texts, "bpe", 260)
    with pytest.raises(UserError, match="at least 259"):
        train_tokenizer(texts, "bpe", 100)
    with pytest.raises(UserError, match="always has 257"):
        train_tokenizer(texts, "byte", 300)
    with pytest.raises(UserError, match="at least 259"):
        train_tokenizer(texts, "char", 258)
    assert train_tokenizer(texts, "char", 270).vocab_size == 270
    assert train_tokenizer(["nospaces"], "char").vocab_size == 258 + len(set("nospaces"))
    with pytest.raises(UserError, match="is needed"):
        train_tokenizer(texts, "bpe")
    for empty in ([], ["", " \n\t"]):
        with pytest.raises(UserError, match="no text"):
            train_tokenizer(empty, "bpe", 300)


def test_sampling_is_bounded_and_repeatable() -> None:
    lines = [str(number) for number in range(1000)]
    assert sample(lines, 2000) == lines
    kept = sample(lines, 50)
    assert kept == sample(lines, 50)
    assert len(set(kept)) == 50
    assert list(training_lines(["a\tb\n\n" + "c" * 1500])) == ["a", "b", "c" * 1024, "c" * 476]


def test_save_and_load(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    fingerprints = set()
    for kind, tokenizer in tokenizers.items():
        tokenizer.save(tmp_path / kind)
        loaded = Tokenizer.load(tmp_path / kind)
        assert loaded.encode("héllo wörld") == tokenizer.encode("héllo wörld")
        assert (loaded.fingerprint, loaded.eod_id, loaded.vocab_size) == (
            tokenizer.fingerprint,
            tokenizer.eod_id,
            tokenizer.vocab_size,
        )
        fingerprints.add(loaded.fingerprint)
    assert len(fingerprints) == 4


def test_damaged_tokenizers_are_named(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a tokenizer directory"):
        Tokenizer.load(tmp_path / "none")
    tokenizers["bpe"].save(tmp_path)
    model, description = tmp_path / "tokenizer.model", tmp_path / "tokenizer.json"
    good_model, good = model.read_bytes(), json.loads(description.read_text())
    for bad in (b"", good_model[:1000], good_model[:300] + b"\xff" + good_model[301:], b"garbage" * 100):
        model.write_bytes(bad)
        with pytest.raises(IntegrityError, match=r"tokenizer\.model|model's"):
            Tokenizer.load(tmp_path)
    model.unlink()
    with pytest.raises(IntegrityError, match=r"tokenizer\.model: cannot be read"):
        Tokenizer.load(tmp_path)
    model.write_bytes(good_model)
    for key, value in (
        ("eod_id", 7),
        ("vocab_size", 5),
        ("fingerprint", "x"),
        ("type", "wordpiece"),
        ("format_version", 9),
    ):
        description.write_text(json.dumps({**good, key: value}))
        with pytest.raises(IntegrityError, match=key):
            Tokenizer.load(tmp_path)
    for text in ("[]", "{", '{"type": "bpe"}'):
        description.write_text(text)
        with pytest.raises(UserError, match=r"tokenizer\.json"):  # it may be anybody's
            Tokenizer.load(tmp_path)
