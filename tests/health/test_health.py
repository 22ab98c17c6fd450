"""Spike rule, jumps over samples and hashes of tensors, as plain functions."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
from config_files import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.checkpoint import (
    Checkpoint,
    LocalCoordinator,
    Saver,
    ShardedTensor,
    newest_good,
    open_checkpoint,
)
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import HealthError
from pretrain.health.replicas import describe, tensor_hash
from pretrain.health.spikes import MAD_TO_SIGMA, SkippedRange, SpikeHistory, spike_limit
from pretrain.health.step_verdict import go_back, judge

LOSSES = st.lists(st.floats(0.5, 20), min_size=8, max_size=40)
FACTORS = torch.randint(-(2**63), 2**63 - 1, (16,), generator=torch.Generator().manual_seed(1)) | 1


@given(LOSSES, st.floats(1, 20))
@settings(deadline=None)
def test_the_limit_is_above_the_median_and_ignores_one_outlier(losses: list[float], threshold: float) -> None:
    limit = spike_limit(losses, threshold)
    assert limit > median(losses)
    most = max(range(len(losses)), key=losses.__getitem__)
    louder = [loss * 1000 if index == most else loss for index, loss in enumerate(losses)]
    spread = 2 * (max(losses) - min(losses))
    assert spike_limit(louder, threshold) <= limit + threshold * MAD_TO_SIGMA * spread + spread


def test_a_flat_curve_has_a_spread_too() -> None:
    assert spike_limit([2.0] * 10, 10) == pytest.approx(2.02)
    assert spike_limit([1.0, 2.0, 3.0, 4.0, 5.0], 2) == pytest.approx(3 + 2 * MAD_TO_SIGMA)


def test_memory_keeps_a_window_of_finite_losses_and_counts_skips() -> None:
    memory = SpikeHistory()
    for loss in (1.0, 2.0, float("nan"), 3.0, float("inf")):
        memory = memory.after(loss, updated=loss < 9, window=2)
    assert memory == SpikeHistory((2.0, 3.0), 1)
    assert memory.after(4.0, updated=True, window=0).losses == (2.0, 3.0)
    assert SpikeHistory().after(4.0, updated=True, window=0).losses == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_update_whatever_the_other_number_is(bad: float) -> None:
    config, steady = small_config(health__on_nonfinite="skip"), SpikeHistory((1.0,) * 64)
    for loss, norm in ((bad, 1.0), (1.0, bad), (bad, bad)):
        verdict = judge(config, steady, loss, norm)
        assert (verdict.finite, verdict.spike, verdict.update) == (False, False, False)
    assert judge(config, steady, 1.0, 1.0).update and judge(config, steady, 1e30, 1.0).spike
    assert steady.after(bad, updated=False, window=64).losses == steady.losses


def test_going_back_is_counted_for_one_checkpoint_in_a_row(tmp_path: Path) -> None:
    """The fourth return to step 10 is none; one to another checkpoint begins anew."""
    jumps = (SkippedRange(12, 80, 88),)
    then = SpikeHistory((1.0,))

    def later(memory: SpikeHistory, step: int) -> Checkpoint:
        state = {"health": replace(memory, skips_in_a_row=2).to_json()}
        saver = Saver(tmp_path / str(step), CheckpointConfig(), 0, 1, LocalCoordinator())
        saver.save(step, [ShardedTensor.whole("w", torch.zeros(1))], state)
        return open_checkpoint(newest_good(tmp_path / str(step))[0] or "")

    memory = SpikeHistory(skipped=jumps, rollbacks=1)
    for times in (1, 2, 3):
        memory = go_back(then, 10, later(memory, 14 + times))
        assert (memory.returned_to, memory.returns, memory.losses) == (10, times, (1.0,))
        assert (memory.skipped, memory.rollbacks, memory.skips_in_a_row) == (jumps, 1, 0)
        assert SpikeHistory.from_json(memory.to_json()) == memory
    assert go_back(then, 12, later(memory, 20)).returns == 1
    with pytest.raises(HealthError, match=r"from step 20 on .* gone back to step 10 3 times"):
        go_back(then, 10, later(memory, 21))


def test_memory_survives_a_checkpoint() -> None:
    memory = SpikeHistory((0.1, 2 / 3), 2, (SkippedRange(10, 80, 112), SkippedRange(10, 0, 8, 1)), 1)
    assert SpikeHistory.from_json(memory.to_json()) == memory
    assert memory.to_json()["skipped"][0] == {"step": 10, "first": 80, "stop": 112}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [1, 3, 64, 133])
def test_every_flipped_bit_changes_the_hash(dtype: torch.dtype, size: int) -> None:
    tensor = torch.arange(size).to(dtype)
    honest = int(tensor_hash(tensor, FACTORS))
    raw = tensor.view(torch.uint8)
    for byte in range(len(raw)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            assert int(tensor_hash(tensor, FACTORS)) != honest
            raw[byte] ^= 1 << bit
    assert int(tensor_hash(tensor, FACTORS)) == honest


def test_the_hash_sees_order_and_not_where_a_tensor_lies() -> None:
    tensor = torch.randn(192, generator=torch.Generator().manual_seed(2))
    swapped = tensor.clone()
    swapped[[3, 150]] = swapped[[150, 3]]
    shifted = torch.cat([torch.zeros(1), tensor])[1:]
    parts = tensor.roll(len(FACTORS) * 2)
    hashes = [
        int(tensor_hash(each, FACTORS)) for each in (tensor, swapped, shifted, parts, tensor.view(4, 48))
    ]
    assert hashes[0] == hashes[2] == hashes[4]
    assert len({hashes[0], hashes[1], hashes[3]}) == 3


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([{"w": 1}, {"w": 1}, {"w": 2}, {"w": 1}], "w: rank 2 differs from ranks 0, 1, 3"),
        ([{"w": 1}, {"w": 2}, {}, {"w": 3}, {"w": 3}], "w: ranks 0, 1 differ from ranks 3, 4"),
        ([{"w": 1}, {"w": 2}], "w: rank 0 differs from rank 1"),
        ([{"w": 1}, {"w": 2}, {"w": 1}, {"w": 2}], "w: ranks 0, 2 differ from ranks 1, 3"),
        ([{"w": 1}, {"w": 2}, {"w": 3}], "w: rank 0 differs from rank 1 and from rank 2"),
    ],
)
def test_the_few_are_named(held: list[dict[str, int]], words: str) -> None:
    assert words in describe(7, held)


def test_many_tensors_are_cut_short() -> None:
    names = [f"w{index}" for index in range(9)]
    message = describe(7, [dict.fromkeys(names, 1), dict.fromkeys(names, 2)])
    assert message.startswith("after step 7: ranks that should hold the same bits do not")
    assert "and 4 more tensors" in message
