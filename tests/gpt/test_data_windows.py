"""Windows and the split: each label once, with the context that the stride promises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.sources import cut_position
from pretrain.errors import UserError
from pretrain.gpt.data import Windows


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 100), st.integers(0, 200), st.integers(1, 40), st.data())
def test_every_label_is_scored_once_with_enough_context(
    start: int, tokens: int, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length))
    windows = Windows(start, start + tokens, length, stride)
    scored = []
    for window in windows:
        assert start <= window.start < window.stop - 1 <= start + tokens - 1
        assert window.stop - window.start <= length + 1
        for label in range(window.score_from, window.stop):
            scored.append(label)
            assert label - window.start >= min(label - start, length - stride + 1)
    assert scored == list(range(start + 1, start + tokens))
    assert windows.scored == (start + 1, max(start + tokens, start + 1))


def test_stride_of_a_window_gives_windows_that_do_not_overlap() -> None:
    windows = list(Windows(0, 101, 10, 10))
    assert [(window.start, window.stop) for window in windows] == [(i, i + 11) for i in range(0, 100, 10)]
    assert all(window.score_from == window.start + 1 for window in windows)


@pytest.mark.parametrize("stride", [0, 11])
def test_a_stride_that_would_skip_labels_is_refused(stride: int) -> None:
    with pytest.raises(UserError, match="from 1 to the sequence length 10"):
        Windows(0, 100, 10, stride)


def test_cut_falls_on_the_nearest_document() -> None:
    asked = []

    def nearest(position: int) -> int:
        asked.append(position)
        return 870

    assert cut_position("shards", 1000, 0.1, 64, nearest) == 870
    assert asked == [900]


@pytest.mark.parametrize("start", [0, 30, 980])
def test_cut_falls_on_the_token_where_a_document_leaves_a_side_too_short(start: int) -> None:
    assert cut_position("shards", 1000, 0.1, 64, lambda _: start) == 900


def test_fraction_is_the_decimal_as_written() -> None:
    assert cut_position("shards", 10**15, 0.1, 64, lambda _: 0) == 9 * 10**14


def test_a_side_too_short_is_refused_with_what_would_fit() -> None:
    with pytest.raises(UserError, match=r"shards: .*0\.01 of 1,000 tokens .* fractions from 0\.065") as error:
        cut_position("shards", 1000, 0.01, 64, lambda _: 0)
    assert (
        cut_position("shards", 1000, float(str(error.value).split("from ")[1].split()[0]), 64, lambda _: 0)
        == 935
    )
    with pytest.raises(UserError, match="longest sequence_length that can be split so is 49"):
        cut_position("shards", 101, 0.5, 64, lambda _: 0)
    assert cut_position("shards", 101, 0.5, 49, lambda _: 0) == 50
