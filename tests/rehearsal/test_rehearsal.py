"""Every trainer in every layout on a pretended GPU: no mix of devices, and little that a GPU waits for.

Numbers, streams, NCCL and memory are not covered: fake tensors have none of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rehearsal_cases import CASES, FAMILIES, Case

from pretrain.errors import UserError
from pretrain.rehearsal import shim

HERE = Path(__file__).parent
MOST_SYNCS = {"gan": 4}
"""Most times that the host may wait for its GPU in a step. A GAN judges the losses and the gradient norms of
two networks; all others wait once."""
MUTATIONS = {
    "tokens stay on the CPU": "error",
    "tokens and masks are not pinned": "BUS",
    "a number is read in each step": "SYNC",
    "label counts are summed on the CPU": "CPU_COLLECTIVE",
    "the stream is synchronised": "SYNC",
    "gradient norms are read one by one": "SYNC",
}
"""How each is seen. Named here as well, because the worker's modules must not be imported on this process's
CPU."""

Said = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What the worker says about each family, case and mutation, all in one process."""
    folder = tmp_path_factory.mktemp("rehearsal")
    for family in FAMILIES.values():
        family.write(folder)
    command = [sys.executable, str(HERE / "rehearsal_worker.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["name"]: each for each in found}


def faults(found: dict[str, Any], most_syncs: int) -> list[str]:
    """What is wrong with a step."""
    if "error" in found:
        return [found["error"]]
    waits = found["SYNC"]
    return [
        *found["BUS"],
        *found["CPU_COLLECTIVE"],
        *(waits if sum(waits.values()) > most_syncs else ()),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_the_command_line(said: Said, family: str) -> None:
    assert "error" not in said[family], said[family]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step(said: Said, case: Case) -> None:
    assert not faults(said[case.name], MOST_SYNCS.get(case.family, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("mutation", "seen"), MUTATIONS.items())
def test_a_mistake_is_seen(said: Said, mutation: str, seen: str) -> None:
    found = said[mutation]
    if seen == "error":
        assert "Expected all tensors to be on the same device" in found["error"]
    else:
        assert sum(found[seen].values()) > (seen == "SYNC")


def test_without_a_compiler_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler here .*: install g\+\+"):
        shim.built_library()
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(UserError, match=r"/bin/false could not build .*fake_cuda\.cpp"):
        shim.built_library()
