"""FLOPs by formula against a trace of the multiplications of a real step."""

from pathlib import Path

import pytest
from test_plan_states import LLAMA, write_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config.load import load_config, require_kind
from pretrain.config.sections import TextConfig
from pretrain.kinds import kind_of
from pretrain.megatron.flops import flops_per_token
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.plan.cost_counter import CostCounter
from pretrain.plan.fake_world import Kind, fake_world
from pretrain.plan.trace import local_micro_batch

FULL = ["parallel.recompute=full"]
WIDE = [
    "model.head_size=20",
    "model.activation=geglu",
    "model.attention_softcap=9",
    "model.norm_position=both",
]
LENGTH = 40
"""Of which BERT predicts six tokens, 15 %."""


@pytest.mark.parametrize(
    ("kind", "overrides"), [("gpt", []), ("gpt", LLAMA), ("gpt", WIDE), ("gpt", FULL), ("bert", [])], ids=str
)
def test_flops_are_those_of_a_counted_step(tmp_path: Path, kind: str, overrides: list[str]) -> None:
    """Without and with recomputation; attention runs unfused, as one matrix product after another."""
    path = str(write_config(tmp_path, kind))
    sizes = [f"batch.sequence_length={LENGTH}", "model.vocab_multiple=4"]
    config = require_kind(load_config(path, [*sizes, *overrides], 1).config, TextConfig, "this test")
    with fake_world(0, 1, Kind.fake) as world, sdpa_kernel(SDPBackend.MATH):
        layout = build_parallel_dims(world, config.parallel)
        model = PipelineModel(config, layout, 300, kind_of(config).spec(config, layout), training=True)
        local = [local_micro_batch(model)] * 2
        with FlopCounterMode(display=False) as counter, CostCounter() as ledger:
            model.rehearse(local)
    assert ledger.work.flops == counter.get_total_flops()
    predicted = 2 * LENGTH * flops_per_token(config, 300, LENGTH)
    if overrides == FULL:  # the forward pass of the layers once more
        head = 2 * LENGTH * 6 * 300 * config.model.hidden_size
        predicted += (predicted - head) / 3
    assert counter.get_total_flops() == pytest.approx(predicted, rel=1e-3)


def test_a_window_counts_instead_of_a_longer_sequence(tmp_path: Path) -> None:
    path = str(write_config(tmp_path, "gpt"))
    windows = ["model.window=10", "model.window_pattern=[window, window, full]"]
    plain, windowed = (
        flops_per_token(require_kind(load_config(path, more, 1).config, TextConfig, "this test"), 300, LENGTH)
        for more in ([], windows)
    )
    assert plain - windowed == 12 * 24 * 3 * (LENGTH - 10)  # of four layers three have the window
