"""Shared by the tests of bad input: warm commands, good shards, and a run that was trained on them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from bad_input_commands import Commands, documents, write_run
from resume_runs import Server
from text_shards import build_shards


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Server() as server:
        yield Commands(server, tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="session")
def good_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of the byte tokenizer; copied by those who damage them."""
    return build_shards(tmp_path_factory.mktemp("good") / "shards", documents(40))


@pytest.fixture(scope="session")
def trained(commands: Commands, good_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.yaml` and `run`, which has checkpoints of steps 2 and 3; copied by those who
    change it."""
    folder = tmp_path_factory.mktemp("trained")
    ended = commands.run("train", write_run(folder, good_shards, checkpoint__every=1))
    assert ended.code == 0, ended.said
    return folder


@pytest.fixture
def run(trained: Path, good_shards: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that may be changed; its config lies beside it."""
    copytree(trained / "run", tmp_path / "run")
    write_run(tmp_path, good_shards, checkpoint__every=1)
    return tmp_path / "run"


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """An empty folder, and from the call on nobody may write into it: a read-only file system for root, whom
    permission bits do not bind."""
    place, is_root = tmp_path / "closed", os.geteuid() == 0
    place.mkdir()
    if is_root:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.fail(f"a closed folder is tried on a tmpfs: {mounted.stderr.strip()}")

    def close() -> Path:
        if is_root:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        else:
            place.chmod(0o500)
        return place

    yield close
    if is_root:
        subprocess.run(["umount", "--lazy", place], check=True)
    else:
        place.chmod(0o700)
