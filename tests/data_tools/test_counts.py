"""Counts in sentences."""

import pytest

from data_tools.counts import are, counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "shard", "0 shards"),
        (1, "shard", "1 shard"),
        (2, "shard", "2 shards"),
        (1297, "image", "1,297 images"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (2, "process", "2 processes"),
        (4, "micro-batch", "4 micro-batches"),
    ],
)
def test_a_noun_follows_its_count(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said
    assert are(count) == ("is" if count == 1 else "are")
