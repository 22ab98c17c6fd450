"""A BERT's batches: masks by the book, pure functions of the index, whatever the ranks."""

from collections import Counter
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bert_shards import bert_config, bert_tokenizer, build_bert_shards, prose
from shard_files import overwrite, refit

from data_tools.tokenizer import BertIds, Tokenizer
from pretrain.bert.data.rows import BertBatch
from pretrain.bert.data.text import BertTrainingData, BertValidationData
from pretrain.config.rules import violations
from pretrain.data.batch import PADDING_SAMPLE
from pretrain.errors import IntegrityError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bert_tokenizer()


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer) -> BertIds:
    assert tokenizer.bert_ids is not None
    return tokenizer.bert_ids


@pytest.fixture(scope="module")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert_shards(tmp_path_factory.mktemp("prose"), prose(), tokenizer)


def original(batch: BertBatch) -> torch.Tensor:
    """The tokens before masking."""
    return torch.where(batch.loss_mask > 0, batch.labels, batch.tokens)


def same(one: BertBatch, other: BertBatch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in ((getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    )


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_masking_by_the_book(shards: Path, tokenizer: Tokenizer, ids: BertIds, masking: str) -> None:
    """15 % of 10^6 tokens, 80/10/10 among them, each within 0.2 points (Devlin et al. 2019)."""
    data = BertTrainingData.from_config(bert_config(shards, masking=masking))
    special = torch.tensor(tokenizer.piece_lengths == 0)
    counts: Counter[str] = Counter()
    step = 0
    # Fates of a span fall together, so that as many draws take four times the tokens.
    while counts["text"] < (4_000_000 if masking == "span" else 1_000_000):
        batch = data.batch(step, 0, 0, 1)
        step += 1
        chosen, before = batch.loss_mask > 0, original(batch)
        assert not special[before[chosen]].any() and not chosen[~batch.padding_mask].any()
        assert torch.equal(batch.masked, chosen & (batch.tokens == ids.mask))
        kept = chosen & (batch.tokens == batch.labels)
        replaced = chosen & ~batch.masked & ~kept
        assert not special[batch.tokens[replaced]].any()
        for name, found in (("chosen", chosen), ("mask", batch.masked), ("kept", kept), ("other", replaced)):
            counts[name] += int(found.sum())
        counts["text"] += int((~special[before] & batch.padding_mask).sum())
    # A random token is, by chance, the one it replaces.
    by_chance = counts["other"] / (int((~special).sum()) - 1)
    assert abs(counts["chosen"] / counts["text"] - 0.15) < 0.002
    assert abs(counts["mask"] / counts["chosen"] - 0.8) < 0.002
    assert abs((counts["kept"] - by_chance) / counts["chosen"] - 0.1) < 0.002
    assert abs((counts["other"] + by_chance) / counts["chosen"] - 0.1) < 0.002


def words_of(tokens: torch.Tensor, tokenizer: Tokenizer) -> torch.Tensor:
    """Number of the word of each token in a row, 0 for special ones, by the text of the pieces."""
    numbers, count, last = [], 0, True
    for token in tokens.tolist():
        piece = tokenizer.decode_bytes([token])
        if piece and (last or piece[:1].isspace()):
            count += 1
        numbers.append(count if piece else 0)
        last = not piece or piece[-1:].isspace()
    return torch.tensor(numbers)


def test_whole_words_are_chosen_together(shards: Path, tokenizer: Tokenizer) -> None:
    data = BertTrainingData.from_config(bert_config(shards, masking="whole_word"))
    longer = 0
    for batch in (data.batch(step, 0, 0, 1) for step in range(3)):
        for row, chosen in zip(original(batch), batch.loss_mask > 0, strict=True):
            words = words_of(row, tokenizer)
            inside, outside = Counter(words[chosen].tolist()), set(words[~chosen].tolist())
            assert not set(inside) & outside
            longer += sum(count > 1 for count in inside.values())
    assert longer > 100


def test_spans_are_of_geometric_length(shards: Path, tokenizer: Tokenizer) -> None:
    """SpanBERT, section 3.1: mean length 3.8 words, none above 10; all tokens of a span have one fate."""
    config = bert_config(shards, masking="span", length=512, nsp=False)
    data = BertTrainingData.from_config(config)
    lengths: Counter[int] = Counter()
    neighbours = turns = 0
    for batch in (data.batch(step, 0, 0, 1) for step in range(12)):
        for row, chosen, masked in zip(original(batch), batch.loss_mask > 0, batch.masked, strict=True):
            words = words_of(row, tokenizer)
            assert not set(words[chosen].tolist()) & set(words[~chosen].tolist())
            runs = np.split(np.flatnonzero(chosen), np.flatnonzero(np.diff(np.flatnonzero(chosen)) > 1) + 1)
            for run in runs:
                fates = dict(zip(words[run].tolist(), masked[run].tolist(), strict=True))
                assert [fates[word] for word in words[run].tolist()] == masked[run].tolist(), "within a word"
                lengths[len(fates)] += 1
                neighbours += len(fates) - 1
                turns += sum(one != other for one, other in pairwise(fates.values()))
    # A turn is where two spans touch that fared differently; words of a fate each would turn in 32 of 100.
    assert neighbours > 1000 and turns / neighbours < 0.05
    total = sum(lengths.values())
    expected = [0.2 * 0.8 ** (length - 1) / (1 - 0.8**10) for length in range(1, 11)]
    assert sum(lengths[length] for length in range(11, 40)) / total < 0.13  # two spans that touch
    for length in range(1, 6):
        assert abs(lengths[length] / total - expected[length - 1]) < 0.05
    short = BertTrainingData.from_config(bert_config(shards, masking="span", max_span=1))
    words = BertTrainingData.from_config(bert_config(shards, masking="whole_word"))
    assert torch.equal(short.samples([3]).loss_mask, words.samples([3]).loss_mask)


def test_the_longest_span_is_as_likely_as_its_share_of_the_cut_off_distribution(
    shards: Path, tokenizer: Tokenizer
) -> None:
    """Of two words at most: 0.2 to 0.2 x 0.8, so 4 in 9 are of two. Few are chosen, so that few touch."""
    config = bert_config(shards, masking="span", length=512, nsp=False, max_span=2, mask_probability=0.04)
    data = BertTrainingData.from_config(config)
    lengths: Counter[int] = Counter()
    for batch in (data.batch(step, 0, 0, 1) for step in range(60)):
        for row, chosen in zip(original(batch), batch.loss_mask > 0, strict=True):
            words = words_of(row, tokenizer)
            places = np.flatnonzero(chosen)
            for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                lengths[len(set(words[run].tolist()))] += 1
    assert sum(lengths.values()) > 500
    assert lengths[2] / (lengths[1] + lengths[2]) == pytest.approx(4 / 9, abs=0.06)


def test_what_a_sample_looks_like(shards: Path, ids: BertIds) -> None:
    batch = BertTrainingData.from_config(bert_config(shards)).samples(range(300))
    for row in range(300):
        tokens, size = original(batch)[row].tolist(), int(batch.padding_mask[row].sum())
        ends = [place for place, token in enumerate(tokens) if token == ids.sep]
        assert tokens[0] == ids.cls and len(ends) == 2 and ends[1] == size - 1
        assert tokens[size:] == [ids.pad] * (128 - size) and ids.pad not in tokens[:size]
        assert batch.padding_mask[row].tolist() == [True] * size + [False] * (128 - size)
        types = [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0]) + [0] * (128 - size)
        assert batch.token_types[row].tolist() == types
    assert set(batch.next_sentence.tolist()) == {0, 1}
    assert batch.loss_mask.dtype == torch.float32 and batch.masked.dtype == torch.bool


def test_without_next_sentence_the_stream_is_read_once(shards: Path, tokenizer: Tokenizer) -> None:
    data = BertTrainingData.from_config(bert_config(shards, nsp=False, length=64))
    reader = data.sources[0].reader
    ids = tokenizer.bert_ids
    assert ids is not None
    _, places = data.order.locate(np.arange(data.samples_per_epoch))
    tokens = original(data.samples(range(data.samples_per_epoch)))
    stream = tokens[np.argsort(places)][:, 1:63].flatten().numpy()
    expected = reader.read(0, len(reader)).astype(np.int64)
    expected[expected == reader.index.eod_id] = ids.sep
    np.testing.assert_array_equal(stream[: len(expected)], expected)


def test_samples_are_functions_of_their_index(shards: Path) -> None:
    config = bert_config(shards, size=16)
    data, again = BertTrainingData.from_config(config), BertTrainingData.from_config(config)
    assert data.fingerprint == again.fingerprint
    many = data.samples(range(40))
    alone = again.samples([33])
    assert torch.equal(alone.tokens[0], many.tokens[33]) and torch.equal(alone.labels[0], many.labels[33])
    assert same(data.batch(2, 0, 0, 1), data.samples(range(32, 48)))
    halves = config.model_copy(update={"batch": config.batch.model_copy(update={"micro_size": 4})})
    parts = BertTrainingData.from_config(halves)
    found = [parts.batch(2, micro, rank, 2).sample_ids for micro in range(2) for rank in range(2)]
    assert [number for part in found for number in part] == list(range(32, 48))


def test_another_epoch_masks_other_tokens(shards: Path) -> None:
    data = BertTrainingData.from_config(bert_config(shards, nsp=False))
    epoch = data.samples_per_epoch
    _, places = data.order.locate(np.arange(2 * epoch))
    other = {place: number for number, place in enumerate(places[epoch:].tolist(), epoch)}
    first, second = data.samples([5]), data.samples([other[int(places[5])]])
    assert torch.equal(original(first), original(second))
    assert not torch.equal(first.loss_mask, second.loss_mask)
    seeded = bert_config(shards, nsp=False)
    seeded = seeded.model_copy(update={"run": seeded.run.model_copy(update={"seed": 5})})
    assert BertTrainingData.from_config(seeded).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"nsp": False},
        {"mask_probability": 0.3},
        {"masking": "whole_word"},
        {"masking": "span"},
        {"masking": "span", "max_span": 2},
        {"short_sequence_probability": 0.9},
    ],
)
def test_every_key_changes_samples_and_fingerprint(shards: Path, change: dict[str, Any]) -> None:
    keys = list(change)
    before = {key: value for key, value in change.items() if key != keys[-1]}
    one = BertTrainingData.from_config(bert_config(shards, **before))
    other = BertTrainingData.from_config(bert_config(shards, **change))
    assert one.fingerprint != other.fingerprint
    assert not same(one.samples(range(32)), other.samples(range(32)))


def test_validation_is_the_same_for_everyone(shards: Path) -> None:
    config = bert_config(shards, validation_fraction=0.2, size=8)
    data = BertValidationData.from_config(config)
    assert data is not None
    alone = list(data.micro_batches(0, 1, 8))
    ranks = [list(data.micro_batches(rank, 3, 4)) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    rows = {
        number: batch.tokens[place]
        for batches in ranks
        for batch in batches
        for place, number in enumerate(batch.sample_ids)
        if number != PADDING_SAMPLE
    }
    assert sorted(rows) == list(range(data.samples))
    for batch in alone:
        for place, number in enumerate(batch.sample_ids):
            if number == PADDING_SAMPLE:
                assert batch.next_sentence[place] == -1
                assert batch.loss_mask[place].sum() == 0 and not batch.padding_mask[place].any()
            else:
                assert torch.equal(batch.tokens[place], rows[number])
    other_seed = config.model_copy(update={"run": config.run.model_copy(update={"seed": 9})})
    again = BertValidationData.from_config(other_seed)
    assert again is not None and same(next(again.micro_batches(0, 1, 8)), alone[0])
    few = config.model_copy(update={"eval": config.eval.model_copy(update={"max_windows": 5})})
    limited = BertValidationData.from_config(few)
    assert limited is not None and limited.samples == 5
    reseeded = BertValidationData.over(data.sources, config, seed=3)
    assert not same(next(reseeded.micro_batches(0, 1, 8)), alone[0])


def test_a_damaged_shard_is_named(shards: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = build_bert_shards(tmp_path, prose()[:4], tokenizer)
    data = BertTrainingData.from_config(bert_config(path))
    index = data.sources[0].reader.index
    for block in index.shards[0].blocks:
        for place in range(0, block.tokens, 50):
            overwrite(path / index.shards[0].name, block.tokens_offset + 2 * place, b"\xff\xff")
    refit(path)
    data = BertTrainingData.from_config(bert_config(path))
    with pytest.raises(IntegrityError, match=r"shards: token .* is id 65535, but its tokenizer has 1000 ids"):
        data.samples(range(64))


@pytest.mark.parametrize(
    ("change", "length", "key"),
    [
        ({}, 4, "batch.sequence_length"),
        ({"nsp": False}, 2, "batch.sequence_length"),
        ({"max_span": 5}, 32, "data.max_span"),
        ({"nsp": False, "short_sequence_probability": 0.1}, 32, "data.short_sequence_probability"),
    ],
)
def test_keys_without_effect_are_refused(change: dict[str, Any], length: int, key: str) -> None:
    config = bert_config(Path("shards"), length=length, **change)
    found = [violation for violation in violations(config, 1) if violation.key == key]
    assert len(found) == 1
