"""Every layout loads every other's checkpoint, optimizer included, and goes on as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS, TOLERANCE, write_config
from ranks import run_ranks

WORKER = Path(__file__).with_name("resharding_worker.py")
NAMES = ["one", *LAYOUTS]
BY_SIZE: dict[int, dict[str, list[str]]] = {1: {"one": []}}
for _name, (_size, _overrides) in LAYOUTS.items():
    BY_SIZE.setdefault(_size, {})[_name] = _overrides

pytestmark = pytest.mark.slow


def run(folder: Path, config: Path, size: int, load: list[str] | None) -> dict[str, Any]:
    output = folder / "curves.json"
    argument: dict[str, Any] = {
        "config": str(config),
        "folder": str(folder / "runs"),
        "output": str(output),
        "layouts": BY_SIZE[size],
    }
    done = run_ranks(WORKER, size, argument | ({} if load is None else {"load": load}))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Layout that goes on -> layout that saved -> the steps after the checkpoint."""
    folder = tmp_path_factory.mktemp("resharding")
    config = write_config(folder)
    for size in BY_SIZE:
        run(folder, config, size, None)
    found: dict[str, Any] = {}
    for size in BY_SIZE:
        found |= run(folder, config, size, NAMES)
    return found


@pytest.mark.parametrize("saved", NAMES)
@pytest.mark.parametrize("loaded", NAMES)
def test_any_layout_loads_any_other(curves: dict[str, Any], saved: str, loaded: str) -> None:
    reference, found = curves["one"]["one"], curves[loaded][saved]
    assert found["updates"] == reference["updates"] == 5
    for key in ("losses", "gradient_norms"):
        assert found[key] == pytest.approx(reference[key], abs=TOLERANCE)
