"""Segment pairs: labels, documents, coverage, truncation, and the corpora they cannot be made of."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_shards import bert_config, bert_tokenizer, build_bert_shards, prose

from data_tools.reader import ShardReader
from data_tools.tokenizer import Tokenizer
from pretrain.bert.data.pairs import FOLLOWS, RANDOM, Pairs, Segments
from pretrain.bert.data.rng import HashRng, sample_keys
from pretrain.bert.data.text import BertTrainingData
from pretrain.data.sources import TokenRange
from pretrain.errors import UserError

ROOM = 125


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bert_tokenizer()


@pytest.fixture(scope="module")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert_shards(tmp_path_factory.mktemp("prose"), prose(), tokenizer)


def pairs_of(path: Path, room: int = ROOM, short: float = 0.0, cut: tuple[int, int] | None = None) -> Pairs:
    reader = ShardReader(path)
    assert reader.sentences is not None
    start, stop = cut or (0, len(reader))
    return Pairs(TokenRange(str(path), reader, start, stop), reader.sentences, room, short)


def drawn(pairs: Pairs, count: int, seed: int = 1) -> list[Segments]:
    keys = sample_keys(seed, "test", range(count)).tolist()
    return [pairs(number % len(pairs), HashRng(key)) for number, key in enumerate(keys)]


def document_of(reader: ShardReader, position: int) -> int:
    return reader.documents.before(position + 1) - 1


def check_pairs(reader: ShardReader, samples: list[Segments], room: int, cut: tuple[int, int]) -> None:
    """What holds for every pair, whatever the corpus."""
    assert reader.sentences is not None
    starts = set(reader.sentences.between(0, len(reader)).tolist())
    tokens = reader.read(0, len(reader))
    for sample in samples:
        assert sample.second is not None
        (a, a_stop), (b, b_stop) = sample.first, sample.second
        assert cut[0] <= a < a_stop <= cut[1] and cut[0] <= b < b_stop <= cut[1]
        assert a_stop - a + b_stop - b <= room
        assert reader.index.eod_id not in tokens[a:a_stop] and reader.index.eod_id not in tokens[b:b_stop]
        documents = {document_of(reader, place) for place in (a, a_stop - 1, b, b_stop - 1)}
        assert len(documents) == (1 if sample.label == FOLLOWS else 2)
        if a_stop - a + b_stop - b < room:
            assert a in starts and b in starts
            if sample.label == FOLLOWS:
                assert a_stop == b


def test_labels_are_even_and_random_segments_are_of_other_documents(shards: Path) -> None:
    samples = drawn(pairs_of(shards), 40_000)
    share = sum(sample.label == RANDOM for sample in samples) / len(samples)
    assert abs(share - 0.5) < 0.005
    reader = ShardReader(shards)
    check_pairs(reader, samples, ROOM, (0, len(reader)))


def test_every_token_about_once_an_epoch(shards: Path) -> None:
    pairs, epochs = pairs_of(shards), 6
    used = np.zeros(len(ShardReader(shards)))
    for epoch in range(epochs):
        for sample in drawn(pairs, len(pairs), seed=epoch):
            assert sample.second is not None
            used[slice(*sample.first)] += 1
            used[slice(*sample.second)] += 1
    assert 0.9 < used.mean() / epochs < 1.05
    assert (used == 0).mean() < 0.06
    assert (used > 3 * epochs).mean() < 0.01


def test_pairs_do_not_betray_their_label(shards: Path) -> None:
    samples = drawn(pairs_of(shards), 20_000)
    by_label: dict[int, list[Segments]] = {FOLLOWS: [], RANDOM: []}
    for sample in samples:
        by_label[sample.label].append(sample)
    reader = ShardReader(shards)
    beginnings = set(reader.document_starts(0, len(reader)).tolist())
    for part in ("first", "second"):
        spans = {label: np.array([getattr(s, part) for s in found]) for label, found in by_label.items()}
        lengths = [np.diff(spans[label]).mean() for label in (FOLLOWS, RANDOM)]
        assert abs(lengths[0] - lengths[1]) < 0.06 * lengths[0]
    assert not beginnings & {sample.second[0] for sample in samples if sample.second}
    # Full samples, too, are as frequent with either label.
    full = [
        np.mean([s.first[1] - s.first[0] + s.second[1] - s.second[0] == ROOM for s in found if s.second])
        for found in by_label.values()
    ]
    assert abs(full[0] - full[1]) < 0.1


@pytest.mark.parametrize("room", [2, 3, 17])
def test_long_pairs_lose_of_the_longer_segment_at_both_ends(shards: Path, room: int) -> None:
    reader = ShardReader(shards)
    samples = drawn(pairs_of(shards, room), 4000)
    check_pairs(reader, samples, room, (0, len(reader)))
    assert reader.sentences is not None
    sentences = set(reader.sentences.between(0, len(reader)).tolist())
    full = [s for s in samples if s.second and s.first[1] - s.first[0] + s.second[1] - s.second[0] == room]
    assert len(full) > 2000
    starts, stops = ([s.first[end] in sentences for s in full] for end in (0, 1))
    if room == 17:
        assert 0 < np.mean(starts) < 0.3 and 0 < np.mean(stops) < 0.3


def test_short_sequences(shards: Path) -> None:
    def lengths(short: float) -> np.ndarray[Any, Any]:
        samples = drawn(pairs_of(shards, short=short), 6000)
        return np.array([s.first[1] - s.first[0] + s.second[1] - s.second[0] for s in samples if s.second])

    assert (lengths(0.0) < 60).mean() < (lengths(0.5) < 60).mean() - 0.1
    assert len(set(np.minimum(lengths(1.0), ROOM).tolist())) > 100


def test_a_range_is_not_left(shards: Path) -> None:
    reader = ShardReader(shards)
    documents = reader.document_starts(0, len(reader)).tolist()
    for cut in ((documents[20], documents[60]), (documents[20] + 50, documents[60] + 50)):
        check_pairs(reader, drawn(pairs_of(shards, cut=cut), 3000), ROOM, cut)


def test_documents_of_one_sentence_among_others(tokenizer: Tokenizer, tmp_path: Path) -> None:
    single = [f"This is number {number} of the lonely sentences." for number in range(300)]
    longer = [f"First {number}. Second {number}. Third one of {number}." for number in range(30)]
    documents = [*single[:200], *longer[:15], *single[200:250], *longer[15:], *single[250:]]
    path = build_bert_shards(tmp_path, documents, tokenizer)
    reader, samples = ShardReader(path), drawn(pairs_of(path, 60), 4000)
    check_pairs(reader, samples, 60, (0, len(reader)))
    assert abs(sum(sample.label == RANDOM for sample in samples) / 4000 - 0.5) < 0.03
    firsts = Counter(document_of(reader, sample.first[0]) for sample in samples)
    several = {number for number, text in enumerate(documents) if text.startswith("First")}
    assert set(firsts) == several


def test_text_without_sentence_ends(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = build_bert_shards(tmp_path, ["word " * 5000, "other words " * 3000], tokenizer)
    reader = ShardReader(path)
    check_pairs(reader, drawn(pairs_of(path, 20), 2000), 20, (0, len(reader)))


def test_corpora_without_pairs_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    cases = {
        "one": ([" ".join(prose()[:3])], "split", "one document, and a random second segment"),
        "lonely": (["A sentence alone."] * 50, "split", "50 documents of one sentence each"),
        "none": (prose()[:5], "none", "do not say where sentences begin.*--sentences split"),
    }
    for name, (documents, kind, reason) in cases.items():
        path = build_bert_shards(tmp_path / name, documents, tokenizer, kind)
        with pytest.raises(UserError, match=reason) as refused:
            BertTrainingData.from_config(bert_config(path, length=32))
        assert str(path) in str(refused.value) and "data.nsp: false" in str(refused.value)
        data = BertTrainingData.from_config(bert_config(path, length=32, nsp=False))
        assert set(data.samples(range(8)).next_sentence.tolist()) == {-1}


def test_a_held_out_part_without_pairs_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from pretrain.bert.data.text import BertValidationData

    path = build_bert_shards(tmp_path, [*prose()[:4], "x y. " * 800], tokenizer)
    config = bert_config(path, length=32, validation_fraction=0.05)
    BertTrainingData.from_config(config)
    with pytest.raises(UserError, match=r"tokens .* to .* are one document"):
        BertValidationData.from_config(config)


def test_a_tokenizer_without_mask_is_refused(tmp_path: Path) -> None:
    path = build_bert_shards(tmp_path, prose()[:5], bert_tokenizer(bert=False))
    for nsp in (True, False):
        with pytest.raises(UserError, match=r"no \[PAD\], \[CLS\], \[SEP\] and \[MASK\]; make one with"):
            BertTrainingData.from_config(bert_config(path, nsp=nsp))
