"""Every layout loads every other's checkpoint, optimizer included, and goes on as if nothing had happened."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS, TOLERANCE, write_bert_config, write_config
from ranks import run_ranks

WORKER = Path(__file__).with_name("resharding_worker.py")
NAMES = ["one", *LAYOUTS]
BERT_NAMES = ["one", "TP2", "PP2", "DP2+distributed"]

pytestmark = pytest.mark.slow


def run(folder: Path, config: Path, names: Sequence[str]) -> dict[str, Any]:
    """Layout that goes on -> layout that saved -> the steps after the checkpoint.

    Layouts of one world size run one after another in the same processes.
    """
    by_size: dict[int, dict[str, list[str]]] = {}
    for name in names:
        size, overrides = LAYOUTS.get(name, (1, []))
        by_size.setdefault(size, {})[name] = overrides
    output = folder / "curves.json"
    found: dict[str, Any] = {}
    for load in ({}, {"load": list(names)}):
        for size, layouts in by_size.items():
            argument = {
                "config": str(config),
                "folder": str(folder / "runs"),
                "output": str(output),
                "layouts": layouts,
            }
            done = run_ranks(WORKER, size, argument | load)
            assert done.returncode == 0, done.stderr[-4000:]
            found |= json.loads(output.read_text())
    return found


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resharding")
    return run(folder, write_config(folder), NAMES)


@pytest.fixture(scope="module")
def bert_curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bert-resharding")
    return run(folder, write_bert_config(folder), BERT_NAMES)


def must_agree(found: dict[str, Any], reference: dict[str, Any]) -> None:
    assert found["updates"] == reference["updates"] == 5
    for key in ("losses", "gradient_norms"):
        assert found[key] == pytest.approx(reference[key], abs=TOLERANCE)


@pytest.mark.parametrize("saved", NAMES)
@pytest.mark.parametrize("loaded", NAMES)
def test_any_layout_loads_any_other(curves: dict[str, Any], saved: str, loaded: str) -> None:
    must_agree(curves[loaded][saved], curves["one"]["one"])


@pytest.mark.parametrize("saved", BERT_NAMES)
@pytest.mark.parametrize("loaded", BERT_NAMES)
def test_any_layout_loads_any_other_of_a_bert(bert_curves: dict[str, Any], saved: str, loaded: str) -> None:
    must_agree(bert_curves[loaded][saved], bert_curves["one"]["one"])
