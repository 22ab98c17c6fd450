"""The order of samples: every sample once an epoch, the same for every layout, free to start."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.order import make_order, micro_batch_samples


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_every_source_goes_through_whole_epochs(sources: list[tuple[int, int]], seed: int) -> None:
    sizes, weights = zip(*sources, strict=True)
    order = make_order(seed, sizes, weights)
    source, sample = order.locate(np.arange(6 * sum(sizes)))
    for k, size in enumerate(sizes):
        drawn = sample[source == k]
        for epoch in range(len(drawn) // size):
            assert np.array_equal(np.sort(drawn[epoch * size : (epoch + 1) * size]), np.arange(size))


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    sizes = [5000, 300, 2048]
    everything = np.arange(20_000)
    expected = make_order(3, sizes, [0.5, 0.2, 0.3]).locate(everything)
    order = make_order(3, sizes, [0.5, 0.2, 0.3])
    for i in np.random.default_rng(0).permutation(everything)[:500]:
        source, sample = order.locate(np.array([i]))
        assert (source[0], sample[0]) == (expected[0][i], expected[1][i])


def test_epochs_and_sources_have_orders_of_their_own() -> None:
    order = make_order(1, [100, 100], [1, 1])
    source, sample = order.locate(np.arange(400))
    orders = [tuple(sample[source == k][epoch * 100 : (epoch + 1) * 100]) for k in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_ranks_and_micro_batches_partition_a_step(step: int, size: int, micro: int, accumulate: int) -> None:
    total = size * micro * accumulate
    seen = [
        i
        for m in range(accumulate)
        for rank in range(size)
        for i in micro_batch_samples(
            step=step, micro_batch=m, rank=rank, size=size, global_size=total, micro_size=micro
        )
    ]
    assert seen == list(range(step * total, (step + 1) * total))


def test_a_micro_batch_outside_of_the_step_is_refused() -> None:
    with pytest.raises(ValueError, match="global batch of 8"):
        micro_batch_samples(step=0, micro_batch=2, rank=0, size=2, global_size=8, micro_size=2)
    with pytest.raises(ValueError, match="global batch of 8"):
        micro_batch_samples(step=0, micro_batch=0, rank=0, size=3, global_size=8, micro_size=1)


def test_an_epoch_of_100_million_samples_starts_in_milliseconds_and_constant_memory() -> None:
    def cost(samples: int) -> tuple[float, int]:
        best, peak = 1.0, 0
        for repeat in range(5):
            tracemalloc.start()
            start = time.perf_counter()
            order = make_order(repeat, [samples], [1.0])
            order.locate(np.array([0, samples // 2, samples - 1, samples, 5 * samples + 3]))
            best = min(best, time.perf_counter() - start)
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return best, peak

    cost(10_000)
    small, large = cost(10_000), cost(100_000_000)
    assert large[0] < 0.05
    assert large[1] < small[1] + 50_000 < 1_000_000
