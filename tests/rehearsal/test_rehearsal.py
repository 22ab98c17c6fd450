"""Every trainer in every layout on a pretended GPU: no mix of devices, and nothing that a GPU must wait for.

Numbers, streams, NCCL and memory are not covered: a fake tensor has none of them. Not run on hardware.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from config_files import REPOSITORY
from rehearsal_cases import CASES, FAMILIES

HERE = Path(__file__).parent
SYNCS = {"gan": 4}
"""Most times that the host may wait for its GPU in a step: a GAN has two networks, each with a loss and a
gradient norm to be judged. All others wait once."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the worker said about each family and each case, all in one process."""
    folder = tmp_path_factory.mktemp("rehearsal")
    for family in FAMILIES.values():
        family.write(folder)
    command = [sys.executable, str(HERE / "rehearsal_worker.py"), str(folder)]
    path = f"{REPOSITORY / 'tests'}:{HERE}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**dict(__import__("os").environ), "PYTHONPATH": path}
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found, done.stderr
    return {each["name"]: each for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_the_command_line(said: dict[str, Any], family: str) -> None:
    assert "error" not in said[family], said[family]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step(said: dict[str, Any], case: Any) -> None:
    found = said[case.name]
    assert "error" not in found, found["error"]
    assert not found["BUS"] and not found["CPU_COLLECTIVE"]
    assert sum(found["SYNC"].values()) <= SYNCS.get(case.family, 1), found["SYNC"]
