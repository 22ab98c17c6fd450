"""Batches from real shards: each sample once an epoch whatever the layout, each label scored once."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_shards import build_shards as build

from data_tools.errors import IntegrityError, UserError
from data_tools.reader import ShardReader
from data_tools.tokenizer import byte_tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain.config.sections import GptConfig
from pretrain.data.batch import PADDING_SAMPLE, Batch
from pretrain.data.sources import open_validation
from pretrain.gpt.data import TrainingData, ValidationData

SEQUENCE = 16
SIZES = (400, 3, 75, 260, 121, 90)


def text_of(size: int, salt: int = 0) -> str:
    return "".join(chr(97 + (i * i + 7 * i + salt) % 26) for i in range(size))


DOCUMENTS = [text_of(size, size) for size in SIZES]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shards") / "one", DOCUMENTS)


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shards") / "two", [text_of(700, 5), text_of(200, 9)])


def config_of(
    *paths: Path | tuple[Path, float], data: dict[str, Any] | None = None, **batch: int
) -> GptConfig:
    sources = [path if isinstance(path, tuple) else (path, 1.0) for path in paths]
    return GptConfig.model_validate(
        {
            "run": {"dir": "run", "steps": 10, "seed": 7},
            "model": {"kind": "gpt", "num_layers": 1, "hidden_size": 8, "num_attention_heads": 1},
            "batch": {"global_size": 8, "micro_size": 1, "sequence_length": SEQUENCE, **batch},
            "optimizer": {"lr": 1e-3},
            "data": {"train": tuple({"path": str(path), "weight": w} for path, w in sources), **(data or {})},
        }
    )


def rows_of(batch: Batch) -> list[tuple[int, tuple[int, ...]]]:
    whole = np.concatenate([batch.tokens.numpy(), batch.labels.numpy()[:, -1:]], axis=1)
    return [(i, tuple(row)) for i, row in zip(batch.sample_ids, whole.tolist(), strict=True)]


def all_rows(config: GptConfig, steps: range, size: int) -> list[tuple[int, tuple[int, ...]]]:
    """What `size` data-parallel ranks see in these steps, each with a TrainingData of its own."""
    ranks = [TrainingData.from_config(config) for _ in range(size)]
    micro_batches = config.batch.global_size // (config.batch.micro_size * size)
    return [
        row
        for step in steps
        for m in range(micro_batches)
        for rank, data in enumerate(ranks)
        for row in rows_of(data.batch(step, m, rank, size))
    ]


def test_samples_are_slices_of_the_stream(shards: Path) -> None:
    data = TrainingData.from_config(config_of(shards))
    stream = ShardReader(shards).read(0, len(ShardReader(shards))).astype(np.int64)
    assert data.samples_per_epoch == (len(stream) - 1) // SEQUENCE
    expected = {
        tuple(stream[j * SEQUENCE : j * SEQUENCE + SEQUENCE + 1]) for j in range(data.samples_per_epoch)
    }
    batch = data.samples(range(data.samples_per_epoch))
    assert {row for _, row in rows_of(batch)} == expected
    assert batch.tokens.dtype == batch.labels.dtype == batch.position_ids.dtype
    assert (batch.loss_mask == 1).all()
    assert batch.position_ids.tolist() == [list(range(SEQUENCE))] * data.samples_per_epoch
    assert batch.document_ids is None


@pytest.mark.parametrize(("size", "micro"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 2), (8, 1)])
def test_ranks_see_every_sample_of_an_epoch_once(shards: Path, size: int, micro: int) -> None:
    config = config_of(shards, micro_size=micro)
    data = TrainingData.from_config(config)
    epoch = data.samples_per_epoch
    rows = all_rows(config, range(-(-epoch // 8)), size)
    assert [i for i, _ in rows] == list(range(len(rows)))
    assert Counter(row for i, row in rows if i < epoch) == Counter(
        row for _, row in rows_of(data.samples(range(epoch)))
    )


def test_data_parallel_size_and_micro_batch_may_change_in_mid_epoch(shards: Path) -> None:
    steps = [(range(3), 2, 2), (range(3, 4), 1, 8), (range(4, 6), 8, 1), (range(6, 16), 4, 1)]
    changing = [
        row
        for part, size, micro in steps
        for row in all_rows(config_of(shards, micro_size=micro), part, size)
    ]
    assert sorted(changing) == sorted(all_rows(config_of(shards), range(16), 1))


def test_next_epoch_has_another_order_and_the_same_samples(shards: Path) -> None:
    data = TrainingData.from_config(config_of(shards))
    n = data.samples_per_epoch
    first, second = ([row for _, row in rows_of(data.samples(range(a, a + n)))] for a in (0, n))
    assert first != second
    assert Counter(first) == Counter(second)


def test_realised_mix_is_within_one_sample(shards: Path, other_shards: Path) -> None:
    config = config_of((shards, 0.7), (other_shards, 0.3))
    data = TrainingData.from_config(config)
    one = {row for _, row in rows_of(TrainingData.from_config(config_of(shards)).samples(range(59)))}
    drawn = np.cumsum([row in one for _, row in rows_of(data.samples(range(500)))])
    assert np.abs(drawn - 0.7 * np.arange(1, 501)).max() < 1


def test_positions_and_documents_start_again_where_a_document_does(shards: Path) -> None:
    data = TrainingData.from_config(config_of(shards, data={"reset_at_document_end": True}))
    batch = data.samples(range(data.samples_per_epoch))
    assert batch.document_ids is not None
    eod = byte_tokenizer().eod_id
    assert batch.document_ids.max() >= 1
    for tokens, positions, documents in zip(
        batch.tokens.tolist(), batch.position_ids.tolist(), batch.document_ids.tolist(), strict=True
    ):
        position = document = 0
        for i, token in enumerate(tokens):
            assert (positions[i], documents[i]) == (position, document)
            position, document = (0, document + 1) if token == eod else (position + 1, document)
    assert (batch.loss_mask == 1).all()


def test_fingerprint_stands_for_what_decides_the_samples(shards: Path, other_shards: Path) -> None:
    base = TrainingData.from_config(config_of(shards)).fingerprint
    assert TrainingData.from_config(config_of(shards, micro_size=4, global_size=4)).fingerprint == base
    others = [
        config_of(other_shards),
        config_of(shards, other_shards),
        config_of(shards, sequence_length=8),
        config_of(shards, data={"validation_fraction": 0.2}),
        config_of(shards, data={"reset_at_document_end": True}),
    ]
    found = {TrainingData.from_config(config).fingerprint for config in others}
    assert len(found | {base}) == len(others) + 1


@pytest.mark.parametrize(("size", "micro"), [(1, 1), (1, 5), (2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("stride", [None, 5, 1])
def test_validation_scores_every_label_once(
    shards: Path, other_shards: Path, size: int, micro: int, stride: int | None
) -> None:
    config = config_of(shards, data={"validation": ({"path": str(shards)}, {"path": str(other_shards)})})
    data = ValidationData.from_config(config)
    assert data is not None
    data = ValidationData.over(data.sources, config, stride)
    streams = [ShardReader(path).read(0, len(ShardReader(path))) for path in (shards, other_shards)]
    scored: Counter[int] = Counter()
    windows = []
    for rank in range(size):
        batches = list(data.micro_batches(rank, size, micro))
        assert len(batches) == data.batches(size, micro)
        for batch in batches:
            assert batch.tokens.shape == (micro, SEQUENCE)
            scored.update(batch.labels[batch.loss_mask == 1].tolist())
            windows += [i for i in batch.sample_ids if i != PADDING_SAMPLE]
            padding = [i == PADDING_SAMPLE for i in batch.sample_ids]
            assert not batch.loss_mask[padding].any()
    assert sorted(windows) == list(range(data.samples))
    assert scored == Counter(token for stream in streams for token in stream[1:].tolist())
    assert data.tokens == sum(scored.values()) == sum(len(stream) - 1 for stream in streams)


def test_held_out_part_is_not_trained_on_and_starts_a_document(shards: Path) -> None:
    config = config_of(shards, data={"validation_fraction": 0.2})
    training, validation = TrainingData.from_config(config), ValidationData.from_config(config)
    assert validation is not None
    reader = ShardReader(shards)
    cut = validation.sources[0].start
    assert (training.sources[0].start, training.sources[0].stop, validation.sources[0].stop) == (
        0,
        cut,
        len(reader),
    )
    assert cut == reader.nearest_document_start(int(len(reader) * 0.8))
    assert cut in reader.document_starts(0, len(reader))


def test_a_config_without_validation_data_has_none(shards: Path) -> None:
    assert ValidationData.from_config(config_of(shards)) is None


@pytest.mark.parametrize("stride", [None, 5])
def test_max_windows_keeps_that_many_sequences_of_each_source(
    shards: Path, other_shards: Path, stride: int | None
) -> None:
    config = config_of(shards, data={"validation": ({"path": str(shards)}, {"path": str(other_shards)})})
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"max_windows": 3})})
    sources = open_validation(config)
    assert sources is not None
    data = ValidationData.over(sources, config, stride)
    assert data.tokens == 6 * SEQUENCE
    assert data.samples == (6 if stride is None else 2 * (1 + math.ceil(2 * SEQUENCE / 5)))


def test_a_source_shorter_than_a_sequence_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"one: 955 tokens .* needs 956; .* fits is 954"):
        TrainingData.from_config(config_of(shards, sequence_length=955))
    assert TrainingData.from_config(config_of(shards, sequence_length=954)).samples_per_epoch == 1


def test_sources_of_different_tokenizers_are_refused(shards: Path, tmp_path: Path) -> None:
    foreign = train_tokenizer(DOCUMENTS, "char")
    strange = build(tmp_path / "strange", DOCUMENTS, foreign)
    with pytest.raises(
        UserError, match=rf"strange: .*{foreign.fingerprint[:12]}, not {byte_tokenizer().fingerprint[:12]}"
    ):
        TrainingData.from_config(config_of(shards, strange))
    foreign.save(tmp_path / "foreign")
    with pytest.raises(UserError, match=r"one: .*data\.tokenizer .*foreign"):
        TrainingData.from_config(config_of(shards, data={"tokenizer": str(tmp_path / "foreign")}))
    with pytest.raises(UserError, match=r"strange: "):
        ValidationData.from_config(config_of(shards, data={"validation": ({"path": str(strange)},)}))
    with pytest.raises(UserError, match=r"one: "):
        ValidationData.from_config(
            config_of(shards, data={"validation_fraction": 0.2}), tokenizer_fingerprint=foreign.fingerprint
        )


def test_given_tokenizer_that_fits_is_accepted(shards: Path, tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path / "bytes")
    data = TrainingData.from_config(config_of(shards, data={"tokenizer": str(tmp_path / "bytes")}))
    assert data.vocab_size == data.tokenizer.vocab_size == 257


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    path = build(tmp_path / "bad", DOCUMENTS)
    reader = ShardReader(path)
    block = reader.index.shards[0].blocks[0]
    with open(path / reader.index.shards[0].name, "r+b") as file:
        file.seek(block.tokens_offset + 2 * 35)
        file.write((300).to_bytes(2, "little"))
    data = TrainingData.from_config(config_of(path))
    with pytest.raises(IntegrityError, match=r"bad: token 35 is id 300, but its tokenizer has 257 ids"):
        data.samples(range(data.samples_per_epoch))


def test_a_missing_shard_is_an_integrity_error(tmp_path: Path) -> None:
    path = build(tmp_path / "gone", DOCUMENTS)
    next(path.glob("*.tar")).unlink()
    with pytest.raises(IntegrityError, match=r"gone/.*missing"):
        TrainingData.from_config(config_of(path))
