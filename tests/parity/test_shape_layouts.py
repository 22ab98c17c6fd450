"""Every layout trains the same model whatever its shape: each key of a decoder is in one of three models."""

import json
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS, SP, write_config
from ranks import run_ranks

WORKER = Path(__file__).with_name("worker.py")
STEPS, TOLERANCE, BF16_TOLERANCE = 5, 1e-5, 5e-3
MODERN = [
    "batch.sequence_length=64",
    "model.position_embedding=rotary",
    "model.rotary_base=100",
    "model.rotary_scaling_factor=4",
    "model.normalization=rmsnorm",
    "model.num_query_groups=2",
    "model.bias=false",
    "model.init_std=0.1",
    "data.reset_at_document_end=true",
]
SHAPES = {
    "gemma": [
        "model.normalization=rmsnorm",
        "model.activation=geglu_tanh",
        "model.head_size=12",
        "model.norm_position=both",
        "model.window=9",
        "model.window_pattern=[window, full]",
        "model.attention_scale=0.5",
        "model.attention_softcap=1",
        "model.logit_softcap=2",
        "model.scale_embeddings=true",
        "model.init_std=0.1",
        "model.z_loss=0.01",
    ],
    "olmo": [
        *MODERN,
        "model.rotary_scaling=yarn",
        "model.rotary_original_length=16",
        "model.qk_norm=whole",
        "model.norm_position=output",
        "model.activation=geglu",
        "model.z_loss=0.1",
        "model.tie_embeddings=false",
    ],
    "qwen": [
        *MODERN,
        "model.rotary_scaling=llama3",
        "model.rotary_original_length=16",
        "model.head_size=24",
        "model.rotary_fraction=0.5",
        "model.qkv_bias=true",
        "model.qk_norm=head",
        "model.window=20",
    ],
}
NAMES = ("TP2", "TP2+SP", "PP2", "PP2xVPP2", "CP2", "DP2+distributed", "TP2xCP2+SP")
EXTRA = {
    "gemma/recompute": (1, "gemma", ["parallel.recompute=selective"]),
    "olmo/recompute": (1, "olmo", ["parallel.recompute=full"]),
}
BF16 = ["precision=bf16"]
EXTRA |= {
    f"{shape}/bf16 {size}": (size, shape, [*BF16, *more])
    for shape in ("gemma", "olmo")
    for size, more in ((1, []), (2, SP))
}
MUTATIONS = {
    "drop_norm_reduction": ("gemma", "TP2+SP"),
    "drop_head_norm_reduction": ("qwen", "TP2"),
    "drop_whole_norm_reduction": ("olmo", "TP2"),
    "forget_window_on_one_rank": ("gemma", "CP2"),
    "normaliser_of_a_part": ("olmo", "TP2"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curves of every run, by name."""
    config = str(write_config(tmp_path_factory.mktemp("shapes")))
    runs: dict[int, dict[str, Any]] = {1: {}, 2: {}, 4: {}}
    for shape, overrides in SHAPES.items():
        runs[1][f"{shape}/one"] = {"overrides": overrides}
        for name in NAMES:
            size, layout = LAYOUTS[name]
            runs[size][f"{shape}/{name}"] = {"overrides": [*overrides, *layout]}
    for name, (size, shape, more) in EXTRA.items():
        runs[size][name] = {"overrides": [*SHAPES[shape], *more]}
    for mutation, (shape, name) in MUTATIONS.items():
        size, layout = LAYOUTS[name]
        runs[size][mutation] = {"overrides": [*SHAPES[shape], *layout], "mutation": mutation}
    found: dict[str, Any] = {}
    for size, asked in runs.items():
        output = tmp_path_factory.mktemp("curves") / "curves.json"
        argument = {
            "output": str(output),
            "steps": STEPS,
            "runs": {name: {"config": config, **run} for name, run in asked.items()},
        }
        done = run_ranks(WORKER, size, argument, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        found |= json.loads(output.read_text())
    return found


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of losses and gradient norms."""
    pairs = (zip(one[key], other[key], strict=True) for key in ("losses", "gradient_norms"))
    return max(float(abs(a - b)) for pair in pairs for a, b in pair)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", NAMES)
def test_layout_equals_one_process(curves: dict[str, Any], shape: str, layout: str) -> None:
    one, other = curves[f"{shape}/one"], curves[f"{shape}/{layout}"]
    assert apart(one, other) <= TOLERANCE
    assert abs(one["validation"]["validation_loss"] - other["validation"]["validation_loss"]) <= TOLERANCE
    assert other["replicas_differ"] == []


@pytest.mark.parametrize("shape", ["gemma", "olmo"])
def test_bf16_layout_equals_one_process(curves: dict[str, Any], shape: str) -> None:
    one, other = curves[f"{shape}/bf16 1"]["losses"], curves[f"{shape}/bf16 2"]["losses"]
    assert other == pytest.approx(one, abs=BF16_TOLERANCE)
    assert one == pytest.approx(curves[f"{shape}/one"]["losses"], abs=10 * BF16_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in EXTRA if "recompute" in name])
def test_recompute_changes_no_bit(curves: dict[str, Any], name: str) -> None:
    assert curves[name]["losses"] == curves[f"{EXTRA[name][1]}/one"]["losses"]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_fault_is_seen(curves: dict[str, Any], mutation: str) -> None:
    one, broken = curves[f"{MUTATIONS[mutation][0]}/one"], curves[mutation]
    assert apart(one, broken) > 10 * TOLERANCE or broken["replicas_differ"]
