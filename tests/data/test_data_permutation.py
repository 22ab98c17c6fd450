"""The keyed permutation: a bijection for any n, well mixed, and free at any scale."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.permutation import MAX_SIZE, TABLE_SIZE, permutation_key, permute

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=500, deadline=None)
@given(
    n=st.one_of(st.integers(1, 2 * TABLE_SIZE), st.integers(1, 20_000)), seed=seeds, epoch=st.integers(0, 10)
)
def test_is_a_bijection_of_any_range(n: int, seed: int, epoch: int) -> None:
    images = permute(permutation_key(seed, 0, epoch), n, np.arange(n))
    assert np.array_equal(np.sort(images), np.arange(n))


@settings(max_examples=500, deadline=None)
@given(n=st.integers(1, MAX_SIZE), seed=seeds, data=st.data())
def test_huge_ranges_are_hit_inside_and_injectively(n: int, seed: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=50))
    images = permute(permutation_key(seed, 1, 0), n, indices)
    assert len(np.unique(images)) == len(indices)
    assert not len(indices) or (images.min() >= 0 and images.max() < n)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 10**12), seed=seeds, data=st.data())
def test_an_element_does_not_depend_on_its_company(n: int, seed: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    key = permutation_key(seed, 0, 0)
    assert permute(key, n, indices).tolist() == [int(permute(key, n, i)) for i in indices]


def test_long_input_is_the_same_in_pieces() -> None:
    key, n = permutation_key(3, 0, 0), 150_001
    whole = permute(key, n, np.arange(n))
    pieces = [permute(key, n, np.arange(a, min(n, a + 777))) for a in range(0, n, 777)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_shape_is_kept_and_known_values_stay() -> None:
    """Orders are part of the file format: an old run must find its samples again after an upgrade."""
    assert permute(permutation_key(1234, 0, 0), 1_000_000, [[0, 1], [2, 3]]).tolist() == [
        [422763, 101672],
        [73298, 794007],
    ]
    assert permute(permutation_key(1234, 0, 0), 7, np.arange(7)).tolist() == [1, 5, 4, 3, 2, 6, 0]


def test_seed_source_and_epoch_each_change_the_order() -> None:
    orders = [
        tuple(permute(permutation_key(*parts), 1000, np.arange(1000)))
        for parts in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (12, 3, 3), (1, 23, 3)]
    ]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("n", [5, 64, 200, 257, 1000, 4096, 100_003])
def test_each_position_is_uniform_over_keys(n: int) -> None:
    """Chi-square of where a few fixed indices land, over many keys, in 16 (or n) bins."""
    bins, keys = min(n, 16), 4000
    probes = np.unique(np.array([0, 1, n // 2, n - 1]))
    landed = np.array([permute(permutation_key(seed, 0, 0), n, probes) for seed in range(keys)])
    edges = np.linspace(0, n, bins + 1).round().astype(int)
    expected = keys * np.diff(edges) / n
    for column in landed.T:
        found, _ = np.histogram(column, bins=edges)
        chi2 = float((((found - expected) ** 2) / expected).sum())
        assert chi2 < bins - 1 + 5 * np.sqrt(2 * (bins - 1)), f"n={n}: chi-square {chi2:.1f}"


@pytest.mark.parametrize("n", [300, 1000, 65_536, 100_003])
def test_neighbours_are_parted(n: int) -> None:
    """No serial correlation, and steps between successive samples spread like those of a random shuffle."""
    for seed in range(20):
        order = permute(permutation_key(seed, 0, 0), n, np.arange(n))
        correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 5 / np.sqrt(n)
    steps = [
        np.diff(permute(permutation_key(seed, 0, 0), n, np.arange(min(n, 500)))) % n for seed in range(40)
    ]
    found, _ = np.histogram(np.concatenate(steps), bins=20, range=(0, n))
    expected = found.sum() / 20
    assert float(((found - expected) ** 2 / expected).sum()) < 19 + 5 * np.sqrt(38)


def test_pairs_are_uniform_over_keys() -> None:
    """Every ordered pair of images of (0, 1) in a small Feistel range is about equally likely."""
    n, keys = 300, 6000
    pairs = np.array([permute(permutation_key(seed, 0, 0), n, [0, 1]) for seed in range(keys)])
    found, _, _ = np.histogram2d(pairs[:, 0], pairs[:, 1], bins=6, range=((0, n), (0, n)))
    expected = keys / 36
    assert float(((found - expected) ** 2 / expected).sum()) < 35 + 5 * np.sqrt(70)


def test_speed_and_memory_do_not_depend_on_n() -> None:
    def best(n: int) -> float:
        times = []
        for repeat in range(5):
            start = time.perf_counter()
            permute(permutation_key(repeat, 0, 0), n, np.arange(8) * (n // 8))
            times.append(time.perf_counter() - start)
        return min(times)

    tracemalloc.start()
    seconds = best(10**15)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000
    assert seconds < 0.02


@pytest.mark.parametrize(("n", "indices"), [(0, []), (MAX_SIZE + 1, [0]), (10, [10]), (10, [-1])])
def test_what_is_out_of_range_is_refused(n: int, indices: list[int]) -> None:
    with pytest.raises(ValueError, match=r"cannot permute|not in range"):
        permute(permutation_key(0, 0, 0), n, indices)
