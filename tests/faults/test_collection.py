"""Tests have the same names whenever they are collected, or pytest-xdist could not share them out."""

import os
import subprocess
import sys

import pytest
from config_files import REPOSITORY


def names(hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_names_depend_on_neither_time_nor_hashes() -> None:
    """One process after the other: each takes seconds."""
    first, second = names("1"), names("2")
    assert first == second
    assert len(first) > 3000
    assert len(set(first)) == len(first)
