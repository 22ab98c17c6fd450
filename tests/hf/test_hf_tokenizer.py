"""Our tokenizers in Hugging Face's library give the same ids, text by text."""

import random
from typing import Any

import pytest

from data_tools.embedded import language_reference
from data_tools.tokenizer import Tokenizer, byte_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.errors import UserError
from pretrain.hf.tokenizer import as_library_tokenizer, prove, why_not

TEXTS = [text for _, text in language_reference()]
MARKS = ("\u2581", "<|endoftext|>", "[MASK]", "<0x41>", "\0", "\r\n", "é", "漢", "😀", "----", "    ", "\n")
KINDS = {
    "byte": {},
    "bpe": {"vocab_size": 700},
    "char": {},
    "bpe for BERT": {"vocab_size": 700, "bert": True},
}


def tokenizer(kind: str, **options: Any) -> Tokenizer:
    model_type = kind.split()[0]
    return byte_tokenizer() if kind == "byte" else train_tokenizer(TEXTS[:20], model_type, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_the_same_ids(kind: str) -> None:
    ours = tokenizer(kind, **KINDS[kind])
    library = as_library_tokenizer(ours, begins=False)
    library.encode_special_tokens = True
    draw = random.Random(7)
    words = [*MARKS, *"abcdef ,.()=", *TEXTS[0].split()[:50]]
    texts = [*TEXTS[::4], "", *("".join(draw.choices(words, k=draw.randrange(1, 400))) for _ in range(150))]
    for text in texts:
        ids = library.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text), text[:200]
        assert library.decode(ids) == text


def test_a_text_begins_as_a_document_does() -> None:
    ours = byte_tokenizer()
    assert as_library_tokenizer(ours, begins=True).encode("ab").ids == [ours.eod_id, 97, 98]
    assert as_library_tokenizer(ours, begins=False).encode("ab").ids == [97, 98]


def test_a_bert_is_asked_by_writing_its_mask() -> None:
    ours = tokenizer("bpe", vocab_size=700, bert=True)
    assert ours.bert_ids is not None
    answer = as_library_tokenizer(ours, begins=False).encode("the[MASK]", "of")
    assert answer.ids[0] == ours.bert_ids.cls
    assert answer.ids.count(ours.bert_ids.mask) == 1
    assert answer.ids.count(ours.bert_ids.sep) == 2
    assert answer.type_ids[-1] == 1


def test_a_unigram_is_refused_for_a_reason() -> None:
    assert "of type unigram" in (why_not(tokenizer("unigram", vocab_size=700)) or "")
    assert why_not(byte_tokenizer()) is None


def test_a_tokenizer_that_differs_is_noticed() -> None:
    library = as_library_tokenizer(tokenizer("bpe", vocab_size=700), begins=False)
    with pytest.raises(UserError, match="cannot be had in Hugging Face's library: from token"):
        prove(tokenizer("bpe", vocab_size=650), library)
