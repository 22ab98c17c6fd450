"""The parts of `pretrain parity` and `pretrain verify-resume` that need no ranks: names, depth, schedule."""

import re
from itertools import product

import pytest
from config_files import small_config
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config.rules import violations
from pretrain.config.sections import ParallelConfig
from pretrain.errors import UserError
from pretrain.proofs.compare import forward_order
from pretrain.proofs.layouts import (
    ProofLayout,
    asked_layouts,
    default_layouts,
    layers_for,
    parse_layout,
    with_layers,
)
from pretrain.proofs.parity import largest_difference
from pretrain.proofs.scratch import shortened


@pytest.mark.parametrize(
    ("text", "parallel", "data", "processes"),
    [
        ("TP2", {"tensor": 2}, 1, 2),
        ("tp2xpp2xvpp3+sp", {"tensor": 2, "pipeline": 2, "virtual_pipeline": 3, "sequence": True}, 1, 4),
        ("DP2+DO", {"distributed_optimizer": True}, 2, 2),
        (
            "CP2xDP4+OVERLAP+DO",
            {"context": 2, "distributed_optimizer": True, "overlap_grad_reduce": True},
            4,
            8,
        ),
    ],
)
def test_layout_names(text: str, parallel: dict[str, object], data: int, processes: int) -> None:
    layout = parse_layout(text)
    assert layout == ProofLayout(ParallelConfig.model_validate(parallel), data)
    assert layout.processes == processes


@given(
    sizes=st.tuples(*[st.integers(1, 16)] * 5),
    flags=st.tuples(*[st.booleans()] * 3),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
def test_a_name_reads_back_as_its_layout(
    sizes: tuple[int, ...], flags: tuple[bool, ...], recompute: str
) -> None:
    tensor, pipeline, virtual, context, data = sizes
    parallel = ParallelConfig.model_validate(
        {
            "tensor": tensor,
            "pipeline": pipeline,
            "virtual_pipeline": virtual if virtual > 1 else None,
            "context": context,
            "sequence": flags[0],
            "distributed_optimizer": flags[1],
            "overlap_grad_reduce": flags[2],
            "recompute": recompute,
        }
    )
    layout = ProofLayout(parallel, data)
    if max(sizes) > 1:
        assert parse_layout(layout.name, parallel) == layout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("XP2", "'XP2' is no size; sizes are TP, PP, VPP, CP, DP"),
        ("TP", "'TP' is no size"),
        ("", "'' is no size"),
        ("TP2xTP4", "TP is given twice"),
        ("TP1", "TP1 has no effect"),
        ("TP0", "TP0 has no effect"),
        ("TP2+ZERO", "'+ZERO' is no option; there are +SP, +DO, +OVERLAP"),
        ("TP2+SP+SP", "+SP is given twice"),
        ("TP2,TP2", "TP2 is given twice"),
        ("TP3", "TP3 is not legal for this config: parallel.tensor: tensor parallel size 3 does not divide"),
        ("VPP2", "VPP2 is not legal for this config: parallel.virtual_pipeline: 2 model chunks"),
        ("DP2+SP", "DP2+SP is not legal for this config: parallel.sequence: has no effect"),
    ],
)
def test_layout_names_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        asked_layouts(small_config(), text)


def test_depth_is_the_smallest_that_is_legal_everywhere() -> None:
    names = {"TP2": 2, "PP2": 2, "PP3": 3, "PP2xVPP2": 4, "PP2xVPP2,PP3": 12}
    for text, layers in names.items():
        assert layers_for([parse_layout(name) for name in text.split(",")]) == layers


def test_default_layouts_are_legal_and_the_others_are_named() -> None:
    layouts, left_out = default_layouts(small_config())
    assert [layout.name for layout in layouts] == ["TP2", "PP2", "CP2", "DP2"]
    assert left_out == []
    own = small_config(parallel={"tensor": 2, "pipeline": 2, "virtual_pipeline": 2})
    assert default_layouts(own)[0][0].name == "TP2xPP2xVPP2"
    odd = small_config(batch={"global_size": 3, "micro_size": 3, "sequence_length": 63})
    layouts, left_out = default_layouts(odd)
    assert [layout.name for layout in layouts] == ["TP2", "PP2"]
    assert [line.partition(":")[0] for line in left_out] == ["CP2", "DP2"]
    large = small_config(parallel={"pipeline": 32}, model__num_layers=32)
    layouts, left_out = default_layouts(large)
    assert [layout.name for layout in layouts] == ["TP2", "PP2", "CP2", "DP2"]
    assert left_out == ["PP32: needs 32 processes; --layouts PP32 runs it"]


@pytest.mark.parametrize(
    ("kind", "warmup", "steps"),
    [*product(["cosine", "linear", "constant", "wsd"], [0, 1, 80], [1, 2, 5, 20])],
)
def test_shortened_schedule_is_legal_and_learns(kind: str, warmup: int, steps: int) -> None:
    config = small_config(schedule={"kind": kind, "warmup_steps": warmup})
    assert violations(config, 1) == []
    short = config.model_copy(
        update={
            "schedule": shortened(config, steps),
            "run": config.run.model_copy(update={"steps": steps}),
        }
    )
    assert violations(short, 1) == []
    assert short.schedule.warmup_steps <= steps / 2


def test_forward_order() -> None:
    names = [
        "embedding.word_embeddings.weight",
        "decoder.layers.2.input_layernorm.weight",
        "decoder.layers.2.self_attention.linear_qkv.weight",
        "decoder.layers.2.self_attention.linear_proj.weight",
        "decoder.layers.2.mlp.linear_fc1.weight",
        "decoder.layers.10.input_layernorm.weight",
        "decoder.final_layernorm.weight",
        "output_layer.weight",
    ]
    for prefix in ("", "optimizer.exp_avg."):
        expected = [prefix + name for name in names]
        assert sorted(sorted(expected), key=forward_order) == expected


def test_a_nan_is_a_difference() -> None:
    assert largest_difference([1.0, 1.0], [1.0, float("nan")]) == float("inf")
    assert largest_difference([1.0, 4.0], [1.25, 4.0]) == 0.25
    assert largest_difference([1.0, 4.0], [1.0, 5.0]) == 0.25
    assert with_layers(small_config(), 2).model.num_layers == 2


@pytest.mark.parametrize(
    ("steps", "sequence_length", "batch_size"),
    [
        (12, [(4, 16), (8, 32)], [(3, 1), (6, 2), (9, 4)]),
        (3, [(1, 16), (2, 32)], [(1, 2), (2, 4)]),
        (2, [(1, 32)], [(1, 4)]),
        (1, None, None),
    ],
)
def test_shortened_stages_leave_steps_to_the_last_batch(
    steps: int, sequence_length: list[tuple[int, int]] | None, batch_size: list[tuple[int, int]] | None
) -> None:
    """Stages of a run of 100 steps, in a proof of fewer: as long as one another, the last ones first kept."""
    longer = ({"until": 30, "sequence_length": 16}, {"until": 90, "sequence_length": 32})
    found = shortened(small_config(schedule__sequence_length=longer), steps)
    seen = [(stage.until, stage.sequence_length) for stage in found.sequence_length or ()]
    assert seen == (sequence_length or [])
    larger = tuple({"until": until, "global_size": size} for until, size in ((9, 1), (50, 2), (90, 4)))
    config = small_config(schedule__batch_size=larger, batch__micro_size=1)
    sizes = [(stage.until, stage.global_size) for stage in shortened(config, steps).batch_size or ()]
    assert sizes == (batch_size or [])
