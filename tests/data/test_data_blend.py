"""The blend: within one sample of the asked mix after every sample, and periodic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.blend import MAX_PERIOD, exact_shares, make_blend
from pretrain.errors import UserError

counts = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def deviations(weights: list[Fraction]) -> np.ndarray:
    """Integers [n, k]: period times (draws of source k in the first n samples - n w_k), exact."""
    blend = make_blend(weights)
    shares = [int(share * blend.period) for share in exact_shares(weights)]
    drawn = np.cumsum(blend.pattern[:, None] == np.arange(len(shares)), axis=0)
    asked = np.arange(1, blend.period + 1)[:, None] * np.array(shares)
    return drawn * blend.period - asked


@settings(max_examples=400, deadline=None)
@given(counts)
def test_mix_is_within_one_sample_after_every_sample(sizes: list[int]) -> None:
    found = deviations([Fraction(size) for size in sizes])
    assert np.abs(found).max() < len(found)  # one sample, in units of 1 / period
    assert not found[-1].any()  # a whole pattern is exact, so the bound holds for ever


@pytest.mark.parametrize("weights", [["0.7", "0.3"], ["0.00001", "0.99999"], ["1", "1", "1", "0.12345"]])
def test_mix_of_typical_and_of_extreme_weights(weights: list[str]) -> None:
    found = deviations([Fraction(weight) for weight in weights])
    assert np.abs(found).max() < len(found)


@settings(max_examples=200, deadline=None)
@given(counts, st.integers(0, 10**15))
def test_draws_of_a_source_are_numbered_without_gaps(sizes: list[int], start: int) -> None:
    blend = make_blend([Fraction(size) for size in sizes])
    source, draw = blend.locate(np.arange(start, start + 3 * blend.period))
    for k in range(len(sizes)):
        assert (np.diff(draw[source == k]) == 1).all()
        assert draw[source == k][0] == _drawn_before(blend.pattern, k, start)


def _drawn_before(pattern: np.ndarray, k: int, start: int) -> int:
    turn, slot = divmod(start, len(pattern))
    return turn * int((pattern == k).sum()) + int((pattern[:slot] == k).sum())


def test_weights_are_the_decimals_as_written_and_relative() -> None:
    assert exact_shares([0.1, 0.3]) == [Fraction(1, 4), Fraction(3, 4)]
    assert make_blend([0.7, 0.3]).period == 10
    assert make_blend([7, 3]).pattern.tolist() == make_blend([0.7, 0.3]).pattern.tolist()
    assert make_blend([5.0]).period == 1


def test_too_fine_weights_are_refused_with_the_nearest_usable_ones() -> None:
    with pytest.raises(
        UserError, match=r"0\.1234567, 0\.8765433 .* nearest usable ones are (\S+), (\S+)"
    ) as error:
        make_blend([0.1234567, 0.8765433])
    nearest = [float(text) for text in str(error.value).rsplit("are ", 1)[1].split(", ")]
    assert nearest == [0.12346, 0.87654]
    assert make_blend(nearest).period <= MAX_PERIOD


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=6))
def test_any_refusal_names_weights_that_are_accepted(weights: list[float]) -> None:
    try:
        make_blend(weights)
    except UserError as error:
        nearest = [float(text) for text in str(error).rsplit("are ", 1)[1].split(", ")]
        assert make_blend(nearest).period <= MAX_PERIOD
        asked = np.array(weights) / sum(weights)
        assert np.abs(np.array(nearest) - asked).max() < 1e-4


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match="positive and finite"):
        make_blend([1.0, weight])
