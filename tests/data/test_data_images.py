"""Batches of images: a pure order, the same on any number of ranks, with labels that belong to them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_shards import build_image_shards

from data_tools.images.reader import ImageReader
from pretrain.data.images import ImageData, ImageSource, open_images
from pretrain.errors import IntegrityError, UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_image_shards(tmp_path_factory.mktemp("images") / "a")


def open_data(*paths: str, cache_bytes: int = 1 << 20, seed: int = 1) -> ImageData:
    return ImageData.open([(path, 1.0) for path in paths], seed, 4, 2, cache_bytes)


def test_an_epoch_holds_every_image_once_with_its_label(shards: str) -> None:
    data, reader = open_data(shards), ImageReader(shards)
    assert reader.labels is not None
    images, labels = data.images(range(data.samples_per_epoch))
    assert images.dtype == torch.uint8
    assert images.shape == (20, 1, 8, 8)
    assert labels is not None
    expected = {reader.pixels(number).tobytes(): int(reader.labels[number]) for number in range(20)}
    assert {
        image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)
    } == expected
    order = [int(label) for label in labels]
    assert order != sorted(order)


def test_a_step_does_not_depend_on_the_ranks(shards: str) -> None:
    data = open_data(shards)
    one = [data.batch(3, micro_batch, 0, 1) for micro_batch in range(2)]
    two = [data.batch(3, 0, rank, 2) for rank in range(2)]
    for alone, together in zip(one, two, strict=True):
        assert torch.equal(alone.images, together.images)
        assert alone.labels is not None and together.labels is not None
        assert torch.equal(alone.labels, together.labels)


def test_the_cache_changes_nothing_and_keeps_its_bound(shards: str) -> None:
    small, none = open_data(shards, cache_bytes=3 * 64), open_data(shards, cache_bytes=0)
    for step in range(8):
        assert torch.equal(small.batch(step, 0, 0, 1).images, none.batch(step, 0, 0, 1).images)
    assert len(small.sources[0]._kept) == 3
    assert not none.sources[0]._kept


def test_batches_in_order_are_divided_over_ranks_whole(shards: str) -> None:
    source = ImageSource(ImageReader(shards))
    alone = list(source.micro_batches(0, 1, 3, 14))
    assert [len(batch.images) for batch in alone] == [3, 3, 3, 3, 2]
    ranks = [list(source.micro_batches(rank, 2, 3, 14)) for rank in range(2)]
    assert [len(part) for part in ranks] == [3, 2]
    for number, batch in enumerate(alone):
        assert torch.equal(ranks[number % 2][number // 2].images, batch.images)
    together = np.concatenate([batch.images.numpy() for batch in alone])
    assert np.array_equal(together, np.stack([source.pixels(number) for number in range(14)]))


def test_the_fingerprint_follows_content_seed_and_weights(shards: str, tmp_path: Path) -> None:
    other = build_image_shards(tmp_path / "b", seed=1)
    found = {
        open_data(shards).fingerprint,
        open_data(other).fingerprint,
        open_data(shards, seed=2).fingerprint,
        open_data(shards, other).fingerprint,
        ImageData.open([(shards, 1.0), (other, 2.0)], 1, 4, 2).fingerprint,
    }
    assert len(found) == 5
    assert open_data(shards, cache_bytes=0).fingerprint == open_data(shards).fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 16}, r"data\.train: .*b: image_size is 16, that of .*a is 8; build it with --size 8"),
        ({"channels": 3}, r"channels is 3, that of .* is 1; build it with --channels 1"),
        ({"classes": 3}, r"its 3 classes are not the 2 of .*a; build it with --classes .*a"),
        ({"classes": 0}, r"its 0 classes are not the 2 of"),
    ],
)
def test_sources_must_be_alike(shards: str, tmp_path: Path, changes: dict[str, int], said: str) -> None:
    other = build_image_shards(tmp_path / "b", **changes)
    with pytest.raises(UserError, match=said):
        open_data(shards, other)


def test_a_damaged_image_names_shard_and_key(tmp_path: Path) -> None:
    path = build_image_shards(tmp_path / "a")
    shard = tmp_path / "a" / "000000-000.tar"
    content = bytearray(shard.read_bytes())
    place = ImageReader(path).index.shards[0].offsets[0]
    content[place : place + 4] = b"oops"
    shard.write_bytes(content)
    with pytest.raises(
        IntegrityError, match=r"000000-000\.tar: image 000000-000-000000 not a readable image"
    ):
        open_data(path).images(range(20))


def test_text_shards_are_told_apart(tmp_path: Path) -> None:
    from text_shards import build_shards

    build_shards(tmp_path / "text", ["some text"] * 3)
    with pytest.raises(
        UserError, match=r"data\.train: .*text: holds text, not images; `pretrain data images`"
    ):
        open_images([str(tmp_path / "text")], "data.train", None)
