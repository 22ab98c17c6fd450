"""Every layout trains the same model: 20 steps from the same seed alone, no checkpoint handed over.

Layouts of one world size run one after another in the same processes, since starting them costs most.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from layouts import BERT_LAYOUTS, LAYOUTS, SP, STEPS, TOLERANCE, VPP, write_bert_config, write_config
from ranks import run_ranks

WORKER = Path(__file__).with_name("worker.py")

ROTARY = [
    "model.position_embedding=rotary",
    "model.normalization=rmsnorm",
    "model.activation=swiglu",
    "model.num_query_groups=2",
    "model.tie_embeddings=false",
    "model.bias=false",
    "data.reset_at_document_end=true",
]
FAMILIES = {"learned": [], "rotary": ROTARY}
BERTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "bert": ([], BERT_LAYOUTS),
    "bert-post": (["model.norm_position=post"], ("TP2+SP", "PP2xVPP2")),
    "bert-rotary": (["model.position_embedding=rotary", "data.nsp=false"], ("TP2+SP", "PP2", "CP2")),
}
"""Family -> overrides, and the layouts that must agree with one process."""
BERT_EXTRA = {"micro1": ["batch.micro_size=1"], "micro4": ["batch.micro_size=4"]}
BF16 = ["precision=bf16"]
DROPOUT = ["model.dropout=0.1"]
EXTRA: dict[str, tuple[int, list[str]]] = {
    "bf16/one": (1, BF16),
    "bf16/TP2+SP": (2, [*BF16, *SP]),
    "bf16/DP2+distributed": (2, [*BF16, "parallel.distributed_optimizer=true"]),
    "bf16/PP2": (2, [*BF16, "parallel.pipeline=2"]),
    "recompute/full": (1, ["parallel.recompute=full"]),
    "recompute/selective": (1, ["parallel.recompute=selective"]),
    "dropout/one": (1, DROPOUT),
    "dropout/full": (1, [*DROPOUT, "parallel.recompute=full"]),
    "dropout/TP2": (2, [*DROPOUT, "parallel.tensor=2"]),
    "dropout/TP2+SP": (2, [*DROPOUT, *SP]),
    "dropout/DP2": (2, DROPOUT),
    "dropout/PP2xVPP2": (2, [*DROPOUT, *VPP]),
}
VALIDATED = ("dropout/one", "dropout/PP2xVPP2")
"""Run a second time with a validation in between."""
UNEVEN: dict[str, tuple[int, list[str]]] = {
    "uneven/one": (1, []),
    "uneven/micro1": (1, ["batch.micro_size=1"]),
    "uneven/micro4": (1, ["batch.micro_size=4"]),
    "uneven/DP2": (2, []),
    "uneven/TP2xPP2": (4, ["parallel.tensor=2", "parallel.pipeline=2"]),
    "uneven/CP2": (2, ["parallel.context=2"]),
}
MUTATIONS: dict[str, tuple[int, list[str], str]] = {
    "drop_tied_embedding_reduction": (2, ["parallel.pipeline=2"], "learned/one"),
    "drop_norm_reduction": (2, SP, "learned/one"),
    "shift_one_rank": (2, [*DROPOUT, "parallel.tensor=2"], "dropout/TP2"),
    "average_per_micro_batch": (1, [], "uneven/one"),
    "batch_p2p_when_interleaved": (2, VPP, "learned/one"),
    "keep_gradient_alias": (2, [], "learned/one"),
    "sum_head_gradients": (2, SP, "bert/one"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def bert_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert_config(tmp_path_factory.mktemp("bert-parity"))


@pytest.fixture(scope="module")
def curves(config: Path, bert_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Curves of every run, by name."""
    runs: dict[int, dict[str, Any]] = {1: {}, 2: {}, 4: {}, 8: {}}
    for family, overrides in FAMILIES.items():
        runs[1][f"{family}/one"] = {"overrides": overrides}
        for name, (size, layout) in LAYOUTS.items():
            runs[size][f"{family}/{name}"] = {"overrides": [*overrides, *layout]}
    for family, (overrides, layouts) in BERTS.items():
        runs[1][f"{family}/one"] = {"overrides": overrides}
        for name in layouts:
            size, layout = LAYOUTS[name]
            runs[size][f"{family}/{name}"] = {"overrides": [*overrides, *layout]}
    for name, overrides in BERT_EXTRA.items():
        runs[1][f"bert/{name}"] = {"overrides": overrides}
    for name, (size, overrides) in EXTRA.items():
        runs[size][name] = {"overrides": overrides}
    for name in VALIDATED:
        size, overrides = EXTRA[name]
        runs[size][f"{name} validated"] = {"overrides": overrides, "validated_after": STEPS // 2}
    for name, (size, overrides) in UNEVEN.items():
        runs[size][name] = {"overrides": overrides, "uneven": True}
    for name, (size, overrides, reference) in MUTATIONS.items():
        uneven = reference in UNEVEN
        run = {"overrides": overrides, "mutation": name, "uneven": uneven}
        runs[size][f"mutation/{name}"] = run | ({"config": str(bert_config)} if "bert" in reference else {})
    found: dict[str, Any] = {}
    for size, asked in runs.items():
        output = tmp_path_factory.mktemp("curves") / "curves.json"
        configs = {name: str(bert_config if name.startswith("bert") else config) for name in asked}
        placed = {name: {"config": configs[name], **run} for name, run in asked.items()}
        argument = {"output": str(output), "steps": STEPS, "runs": placed}
        done = run_ranks(WORKER, size, argument, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        found |= json.loads(output.read_text())
    return found


def difference(a: dict[str, Any], b: dict[str, Any], key: str) -> float:
    """Largest difference of two curves."""
    assert len(a[key]) == len(b[key]) == STEPS
    return max(abs(x - y) for x, y in zip(a[key], b[key], strict=True))


def agree(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> bool:
    return all(difference(a, b, key) <= tolerance for key in ("losses", "gradient_norms"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_one_process(curves: dict[str, Any], family: str, layout: str) -> None:
    one, other = curves[f"{family}/one"], curves[f"{family}/{layout}"]
    assert difference(one, other, "losses") <= TOLERANCE
    assert difference(one, other, "gradient_norms") <= TOLERANCE
    assert abs(one["validation"]["validation_loss"] - other["validation"]["validation_loss"]) <= TOLERANCE
    assert other["replicas_differ"] == []
    assert one["losses"][-1] < one["losses"][0] - 0.1, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize(
    ("family", "other"), [(name, layout) for name, (_, layouts) in BERTS.items() for layout in layouts]
)
def test_bert_layout_equals_one_process(curves: dict[str, Any], family: str, other: str) -> None:
    assert_same_bert(curves[f"{family}/one"], curves[f"{family}/{other}"])


@pytest.mark.parametrize("other", BERT_EXTRA)
def test_bert_loss_does_not_depend_on_the_micro_batch(curves: dict[str, Any], other: str) -> None:
    assert_same_bert(curves["bert/one"], curves[f"bert/{other}"])


def assert_same_bert(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Losses, gradients and baselines to rounding; answers may turn where two are as likely, one in 16."""
    rows = zip([*one["metrics"], one["validation"]], [*other["metrics"], other["validation"]], strict=True)
    for expected, found in rows:
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            answers = name.endswith("accuracy") and "baseline" not in name
            assert found[name] == pytest.approx(value, abs=1 / 16 if answers else TOLERANCE), name
    assert other["replicas_differ"] == []
    assert one["losses"][-1] < one["losses"][0] - 0.1, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("layout", ["TP2+SP", "DP2+distributed", "PP2"])
def test_bf16_layout_equals_one_process(curves: dict[str, Any], layout: str) -> None:
    assert difference(curves["bf16/one"], curves[f"bf16/{layout}"], "losses") <= 2e-3


@pytest.mark.parametrize("name", ["TP2", "TP2+SP", "DP2"])
def test_dropout_keeps_replicas_identical(curves: dict[str, Any], name: str) -> None:
    assert curves[f"dropout/{name}"]["replicas_differ"] == []
    assert difference(curves[f"dropout/{name}"], curves["learned/one"], "losses") > 1e-3


@pytest.mark.parametrize("name", VALIDATED)
def test_validation_has_no_dropout_and_leaves_training_as_it_was(curves: dict[str, Any], name: str) -> None:
    """In every chunk of a stage. Nothing but validation is done twice, so bits are the same."""
    validated = curves[f"{name} validated"]
    first, second = validated["between"]
    assert first == second
    assert validated["losses"] == curves[name]["losses"]
    assert difference(validated, curves["learned/one"], "losses") > 1e-3, "there was no dropout"


def test_recompute_changes_no_bit(curves: dict[str, Any]) -> None:
    for kind in ("full", "selective"):
        assert curves[f"recompute/{kind}"]["losses"] == curves["learned/one"]["losses"]
    assert curves["dropout/full"]["losses"] == curves["dropout/one"]["losses"]


@pytest.mark.parametrize("name", [name for name in UNEVEN if name != "uneven/one"])
def test_every_label_weighs_the_same(curves: dict[str, Any], name: str) -> None:
    assert agree(curves["uneven/one"], curves[name], TOLERANCE)
    assert difference(curves["uneven/one"], curves["learned/one"], "losses") > 1e-3


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_fault_is_seen(curves: dict[str, Any], mutation: str) -> None:
    """The comparisons above go red when the code is broken on purpose."""
    broken, honest = curves[f"mutation/{mutation}"], curves[MUTATIONS[mutation][2]]
    assert not agree(broken, honest, TOLERANCE) or broken["replicas_differ"]
