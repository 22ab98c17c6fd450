"""Sentence boundaries: kept beside the tokens, which they do not change."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_files import digests, documents, overwrite

from data_tools.builder import BuildOptions, build
from data_tools.embedded import english
from data_tools.errors import UserError
from data_tools.index import read_index
from data_tools.reader import ShardReader
from data_tools.sentences import LONGEST_LINE, LONGEST_SENTENCE, sentences
from data_tools.tokenizer import Tokenizer
from data_tools.verify import verify

TEXT = "A title\n=======\n\nDr. Smith came at 3 p.m. on Monday.  "
TEXT += 'He said "Hello." Then\nhe left.\n \n\tA list. \n'
SPLIT = ["A title\n=======", "\n\nDr. Smith came at 3 p.m. on Monday.", '  He said "Hello."']
SPLIT += [" Then\nhe left.", "\n \n\tA list. \n"]


def shards_of(
    path: Path, texts: list[str], tokenizer: str, kind: str, block_tokens: int = 1 << 20
) -> ShardReader:
    source = path.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    options = BuildOptions((str(source),), tokenizer, str(path), workers=1, sentences=kind)
    build(BuildOptions(**{**vars(options), "block_tokens": block_tokens}))
    return ShardReader(path)


def stored_sentences(reader: ShardReader) -> list[str]:
    """The sentences of a shard directory as text, the end-of-document tokens left out."""
    assert reader.sentences is not None
    tokenizer = reader.tokenizer()
    starts = reader.sentences.between(0, len(reader)).tolist()
    return [
        tokenizer.decode(reader.read(start, stop).tolist())
        for start, stop in zip(starts, [*starts[1:], len(reader)], strict=True)
    ]


def test_sentences_of_text() -> None:
    assert list(sentences([TEXT], "split")) == SPLIT
    lines = ["A title", "\n=======", *TEXT[15:].rstrip().splitlines(keepends=False)[2:]]
    assert list(sentences([TEXT], "lines")) == [
        *lines[:2],
        '\n\nDr. Smith came at 3 p.m. on Monday.  He said "Hello." Then',
        "\nhe left.",
        "\n \n\tA list. \n",
    ]
    assert list(sentences(["", ""], "split")) == list(sentences([], "lines")) == []
    assert list(sentences([" \n\n", " "], "split")) == [" \n\n "]


@pytest.mark.parametrize("kind", ["split", "lines"])
def test_nothing_is_lost_however_a_text_arrives(kind: str) -> None:
    generator = random.Random(0)
    alphabet = [
        "\n",
        "\n\n",
        ". ",
        "! ",
        "word ",
        "é漢🙂",
        "\r\n",
        "\u2581",
        "\x85",
        "3.5",
        "e.g. ",
        '"',
        " " * 9,
    ]
    for _ in range(60):
        text = "".join(generator.choices(alphabet, k=generator.randrange(400)))
        whole = list(sentences([text], kind))
        assert "".join(whole) == text
        cuts = sorted(generator.randrange(len(text) + 1) for _ in range(5))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert list(sentences(parts, kind)) == whole
        assert all(sentence.strip() for sentence in whole) or not text.strip()


def test_text_without_an_end_is_divided() -> None:
    endless = "word " * 20_000
    assert max(map(len, sentences([endless], "split"))) <= LONGEST_SENTENCE
    assert max(map(len, sentences([endless], "lines"))) <= LONGEST_LINE
    assert "".join(sentences([endless], "split")) == endless
    assert "".join(sentences(["x" * 200_000], "split")) == "x" * 200_000


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "byte"])
def test_tokens_are_the_same_with_and_without(
    kind: str, tmp_path: Path, texts: list[str], tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizers[kind].save(tmp_path / "tokenizer")
    tokenizer = str(tmp_path / "tokenizer")
    corpus = [*texts[:4], TEXT, "\u2581 É. Ü? \u2581\u2581x. " * 200]
    plain = shards_of(tmp_path / "plain", corpus, tokenizer, "none", 1024)
    kept = shards_of(tmp_path / "kept", corpus, tokenizer, "split", 1024)
    np.testing.assert_array_equal(plain.read(0, len(plain)), kept.read(0, len(kept)))
    assert plain.document_starts(0, len(plain)).tolist() == kept.document_starts(0, len(kept)).tolist()
    assert plain.sentences is None and kept.sentences is not None
    assert documents(tmp_path / "kept") == corpus
    found = stored_sentences(kept)
    assert "".join(found) == "".join(corpus)
    assert kept.index.sentences == len(kept.sentences) == len(found)
    expected = [sentence for text in corpus for sentence in sentences([text], "split")]
    # A piece that reaches over a boundary (two words joined by no space) goes to the sentence before.
    assert len(set(expected) - set(found)) <= len(expected) // 20
    if kind in ("char", "byte"):
        assert found == expected
    assert verify(str(tmp_path / "kept")).faults == ()


def test_shards_without_sentences_say_nothing_of_them(tmp_path: Path, byte_path: str) -> None:
    reader = shards_of(tmp_path / "plain", [TEXT], byte_path, "none")
    for name in ("index.json", "build.json"):
        assert '"sent' not in (tmp_path / "plain" / name).read_text()
    assert reader.index.fingerprint == "769b12b0b384f1f12f0a8e92a9efda5b90ba2925136b68d1c58c52237335ad1d"


def test_marks_by_number_and_by_place(tmp_path: Path, texts: list[str], tokenizer_path: str) -> None:
    reader = shards_of(tmp_path / "kept", texts, tokenizer_path, "split", 1024)
    assert reader.sentences is not None and len(reader.index.shards[0].blocks) > 3
    starts = reader.sentences.between(0, len(reader)).tolist()
    assert [reader.sentences.at(number) for number in range(len(starts))] == starts
    for position in range(0, len(reader) + 1, 7):
        assert reader.sentences.before(position) == sum(start < position for start in starts)
    with pytest.raises(IndexError):
        reader.sentences.at(len(starts))


def test_faults_of_sentences_are_found(tmp_path: Path, byte_path: str) -> None:
    shards_of(tmp_path / "kept", [TEXT, TEXT], byte_path, "split")
    shard = read_index(tmp_path / "kept").shards[0]
    block = shard.blocks[0]
    assert block.sents_offset is not None and block.sents == 2 * len(SPLIT)

    def faults(position: int, value: int) -> str:
        path = tmp_path / "kept" / shard.name
        before = path.read_bytes()
        overwrite(path, block.sents_offset + 8 * position, value.to_bytes(8, "little"))  # type: ignore[operator]
        found = verify(str(tmp_path / "kept")).faults
        path.write_bytes(before)
        return "\n".join(found)

    assert "not ascending" in faults(1, 0)
    assert "no sentence begins with the document at token 0" in faults(0, 1)
    assert "a sentence begins with the end of a document" in faults(len(SPLIT) - 1, len(TEXT.encode()))


def test_options_without_effect_are_refused(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "a.txt").write_text("One.\nTwo.\n")
    options: dict[str, Any] = {"tokenizer": byte_path, "output": str(tmp_path / "out"), "document": "line"}
    with pytest.raises(UserError, match="every document is one sentence"):
        build(BuildOptions((str(tmp_path / "a.txt"),), sentences="lines", **options))


def test_other_sentences_are_another_build(tmp_path: Path, byte_path: str) -> None:
    shards_of(tmp_path / "out", [TEXT], byte_path, "split")
    before = digests(tmp_path / "out")
    with pytest.raises(UserError, match="sentences was 'split', now 'lines'"):
        shards_of(tmp_path / "out", [TEXT], byte_path, "lines")
    assert digests(tmp_path / "out") == before


def test_english_is_prose_without_layout() -> None:
    corpus = list(english())
    assert len(corpus) > 400 and sum(len(text) for _, text in corpus) > 1_900_000
    assert all(text == " ".join(text.split()) and len(text) >= 300 for _, text in corpus)


def test_bert_pieces(tmp_path: Path, texts: list[str], jsonl: Callable[..., str]) -> None:
    from data_tools.train_tokenizer import train_tokenizer

    for kind, size in (("bpe", 600), ("unigram", 600), ("char", None)):
        tokenizer = train_tokenizer(texts, kind, size, bert=True)
        assert size in (None, tokenizer.vocab_size)
        ids = tokenizer.bert_ids
        assert ids is not None and len({ids.pad, ids.cls, ids.sep, ids.mask, tokenizer.eod_id}) == 5
        text = f"{texts[0]} [MASK] [CLS][SEP]"
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not {ids.pad, ids.cls, ids.sep, ids.mask} & set(tokenizer.encode(text))
    plain = train_tokenizer(texts, "bpe", 600)
    assert plain.bert_ids is None
    with pytest.raises(UserError, match="--bert: a byte tokenizer"):
        train_tokenizer([], "byte", bert=True)
    with pytest.raises(UserError, match="at least 263"):
        train_tokenizer(texts, "bpe", 262, bert=True)
