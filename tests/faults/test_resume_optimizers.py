"""A resume is exact with every optimizer that megatron-core may take: torch's AdamW, or the FusedAdam of Apex
or Transformer Engine, which count their steps elsewhere; and a checkpoint of one goes on with another."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from resume_runs import Runs, Server
from text_shards import build_shards

from pretrain.proofs.compare import compare_runs, newest
from pretrain.tracking.journal import curve, read

STEPS, HALF, TOLERANCE = 8, 4, 1e-4
"""Losses differ by 5e-7 between the updates of two libraries, and by 0.2 where steps are counted anew."""
CLASSES = {
    "torch": "torch.optim.adamw.AdamW",
    "apex": "apex.optimizers.FusedAdam",
    "transformer_engine": "transformer_engine.pytorch.optimizers.FusedAdam",
}
SHARDED, BF16 = "parallel.distributed_optimizer=true", "precision=bf16"
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "one": (1, []),
    "DP2-sharded": (2, [SHARDED]),
    "DP2-bf16": (2, [BF16]),
    "DP2-sharded-bf16": (2, [SHARDED, BF16]),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Runs]]:
    """Library -> runs in processes that find it."""
    folder = tmp_path_factory.mktemp("optimizers")
    letters = random.Random(1)
    build_shards(folder / "shards", ["".join(letters.choices("abcdefgh ", k=100)) for _ in range(30)])
    path = folder / "config.yaml"
    path.write_text(
        f"""
run: {{dir: {folder}/run, steps: {STEPS}, seed: 7}}
model: {{kind: gpt, num_layers: 2, hidden_size: 32, num_attention_heads: 4, dropout: 0.1}}
batch: {{global_size: 8, micro_size: 2, sequence_length: 32}}
optimizer: {{lr: 1e-2}}
schedule: {{kind: constant}}
data: {{train: {folder}/shards}}
tracking: {{enabled: false}}
"""
    )
    with Server() as torch, Server("apex") as apex, Server("transformer_engine") as engine:
        servers = {"torch": torch, "apex": apex, "transformer_engine": engine}
        yield {name: Runs(server, path, folder) for name, server in servers.items()}


def resumed(run: Path, first: Runs, second: Runs, layout: str) -> Path:
    """A run in two jobs, the second of which goes on with what the first saved."""
    processes, overrides = LAYOUTS[layout]
    first.finish(run, processes, [*overrides, f"run.steps={HALF}"])
    assert newest(run).step == newest(run).state["updates"] == HALF
    second.finish(run, processes, overrides)
    assert newest(run).step == newest(run).state["updates"] == STEPS
    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("library", CLASSES)
def test_resumed_is_uninterrupted(libraries: dict[str, Runs], library: str, layout: str) -> None:
    runs = libraries[library]
    straight = runs.folder / f"straight-{library}-{layout}"
    processes, overrides = LAYOUTS[layout]
    runs.finish(straight, processes, overrides)
    facts = json.loads((straight / "status.json").read_text())["facts"]
    assert facts["optimizer"] == CLASSES[library]
    twice = resumed(runs.folder / f"twice-{library}-{layout}", runs, runs, layout)
    found = compare_runs(straight, twice)
    assert {item.what: item.compared for item in found}["losses"] == STEPS
    assert [item for item in found if item.differing] == []


@pytest.mark.parametrize(
    ("first", "second", "layout"),
    [
        ("apex", "torch", "DP2-sharded"),
        ("torch", "transformer_engine", "one"),
        ("transformer_engine", "apex", "DP2-sharded-bf16"),
    ],
)
def test_another_library_goes_on(libraries: dict[str, Runs], first: str, second: str, layout: str) -> None:
    straight = libraries["torch"].folder / f"straight-for-{first}-{second}"
    libraries["torch"].finish(straight, *LAYOUTS[layout])
    run = straight.with_name(f"{first}-{second}")
    resumed(run, libraries[first], libraries[second], layout)
    expected, found = (dict(curve(read(path / "metrics.jsonl"), "loss")) for path in (straight, run))
    tolerance = 2e-2 if BF16 in LAYOUTS[layout][1] else TOLERANCE  # bf16 rounds to 8 bits
    assert found == pytest.approx(expected, abs=tolerance) and len(found) == STEPS
