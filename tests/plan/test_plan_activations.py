"""Activations that the plan predicts, against a whole schedule on fake tensors, byte by byte."""

from pathlib import Path

import pytest
from test_plan_states import BF16, CP, DO, LLAMA, PP, SP, TP, VPP, write_config

from pretrain.config.load import load_config, require_kind
from pretrain.config.sections import TextConfig
from pretrain.kinds import kind_of
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.plan.cost_counter import CostCounter
from pretrain.plan.fake_world import Kind, fake_world
from pretrain.plan.text_plan import bubble, passes, peak_activations
from pretrain.plan.trace import local_micro_batch, trace

FULL, SELECTIVE = "parallel.recompute=full", "parallel.recompute=selective"
PP4 = "parallel.pipeline=4"
SIZES = ["model.num_layers=8", "model.hidden_size=64", "batch.sequence_length=128"]
PATTERN = "model.window_pattern=[window, window, window, full]"
LAYOUTS = {
    "TP2 SP": (2, [TP, SP, BF16, "model.num_layers=3"]),
    "TP2, attention recomputed": (2, [TP, SELECTIVE, "model.num_layers=2"]),
    "PP4": (4, [PP4, BF16]),
    "PP2, recomputed": (2, [PP, FULL]),
    "PP2 VPP2": (2, VPP),
    "PP4 VPP2, TP2 SP, recomputed": (
        8,
        [PP4, "parallel.virtual_pipeline=2", TP, SP, FULL, BF16],
    ),
    "CP2": (2, [CP, BF16, "model.num_layers=2"]),
    "PP2, one layer in four without a window": (2, [PP, "model.window=32", PATTERN]),
    "CP2, windows and soft-caps": (2, [CP, "model.window=32", "model.attention_softcap=9"]),
    "DP2, Llama": (2, [DO, *LLAMA, "model.num_layers=3"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_predicted_activations_are_those_of_the_whole_schedule(tmp_path: Path, kind: str) -> None:
    path = str(write_config(tmp_path, kind))
    for name, (size, overrides) in LAYOUTS.items():
        if kind == "bert" and name not in ("TP2 SP", "PP4", "PP2 VPP2"):
            continue
        config = require_kind(
            load_config(path, _once([*SIZES, *overrides]), size).config, TextConfig, "this test"
        )
        pipeline = config.parallel.pipeline
        micro_batches = 2 * pipeline if config.parallel.virtual_pipeline else max(2, pipeline)
        family = kind_of(config).spec
        assert family is not None
        traced = trace(config, 300, family, fused_dropout=True)
        for stage in range(pipeline):
            with fake_world(stage * size // pipeline, size, Kind.fake) as world:
                layout = build_parallel_dims(world, config.parallel)
                model = PipelineModel(config, layout, 300, family(config, layout), training=True)
                model.forget_gradients()
                with CostCounter() as ledger:
                    model.rehearse([local_micro_batch(model) for _ in range(micro_batches)])
            predicted = peak_activations(config, traced, stage, micro_batches) + traced.buffers
            assert predicted == pytest.approx(ledger.peak, rel=0.05), (name, stage, predicted / ledger.peak)


def _once(overrides: list[str]) -> list[str]:
    """The last one of each key."""
    return [f"{key}={value}" for key, value in dict(text.split("=") for text in overrides).items()]


def test_the_order_of_passes() -> None:
    """Every micro-batch goes forward once and back once through each chunk, and never back first."""
    for pipeline, chunks, micro_batches in ((1, 1, 3), (4, 1, 2), (4, 1, 8), (4, 3, 8), (2, 2, 2)):
        for stage in range(pipeline):
            open_passes = [0] * chunks
            found = list(passes(pipeline, stage, chunks, micro_batches))
            for chunk, forward in found:
                open_passes[chunk] += 1 if forward else -1
                assert open_passes[chunk] >= 0
            assert open_passes == [0] * chunks
            assert len(found) == 2 * chunks * micro_batches
    assert bubble(8, 1, 8) == 7 / 15
    assert bubble(8, 2, 8) == 7 / 23
