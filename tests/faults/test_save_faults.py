"""A full, read-only or limited disk: a save fails on all ranks alike and says why; the run goes on."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from saving import Plan, assert_holds, run_plan

from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor, clean, newest_good, resolve
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import UserError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.fail(f"a full disk is tried on a tmpfs, which root can mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def pieces(size: int = 100_000) -> list[ShardedTensor]:
    return [
        ShardedTensor.whole("w", torch.ones(size)),
        ShardedTensor.whole("m", torch.ones(size // 4), "optimizer"),
    ]


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize("async_", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("checked", [True, False], ids=["before", "while-writing"])
def test_full_disk(small_disk: Path, async_: bool, checked: bool) -> None:
    """Full when the save begins (the free-space check says so), or filled up by another while it writes."""
    ballast = small_disk / "ballast"

    def fill() -> None:
        with open(ballast, "wb", buffering=0) as file:
            while chunk := small_disk_free(small_disk) - 200_000:
                if chunk < 4096:
                    break
                file.write(bytes(min(chunk, 1 << 16)))

    def on_event(name: str) -> None:
        if name == "before-files" and not checked and armed:
            fill()

    armed = False
    said: list[str] = []
    settings = CheckpointConfig.model_validate({"async": async_, "max_failures": 3})
    saver = Saver(small_disk, settings, 0, 1, LocalCoordinator(), say=said.append, on_event=on_event)
    saver.save(1, pieces(), {"step": 1})
    saver.join()
    before = names(small_disk)
    armed = True
    for step in (2, 3):
        if checked:
            fill()
        else:
            ballast.unlink(missing_ok=True)
        saver.save(step, pieces(), {"step": step})
        saver.join()
        assert saver.last and not saver.last.ok and saver.last.step == step
        assert ("needs 5" if checked else "No space left on device") in saver.last.reason, saver.last
        assert names(small_disk) == before
        assert newest_good(small_disk)[0] == small_disk / "checkpoints/step-00000001"
    assert sum("was not saved" in line for line in said) == 2
    armed = False
    ballast.unlink()
    saver.save(4, pieces(), {"step": 4})
    saver.join()
    assert saver.last and saver.last.ok
    assert newest_good(small_disk)[0] == small_disk / "checkpoints/step-00000004"


def small_disk_free(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def test_read_only_folder_and_the_last_straw(small_disk: Path) -> None:
    saver = Saver(small_disk, CheckpointConfig(max_failures=2), 0, 1, LocalCoordinator())
    saver.save(1, pieces(1000), {})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    report = saver.save(2, pieces(1000), {})
    assert report and not report.ok and "Read-only file system" in report.reason
    with pytest.raises(UserError, match=r"last 2 saves in a row failed \(.*max_failures: 2\).*Read-only"):
        saver.save(3, pieces(1000), {})
    assert newest_good(small_disk)[0] == small_disk / "checkpoints/step-00000001"
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    saver.save(4, pieces(1000), {})
    assert names(small_disk) == ["latest", "step-00000001", "step-00000004"]


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    saver = Saver(tmp_path, CheckpointConfig(), 0, 1, LocalCoordinator())
    report = saver.save(1, pieces(10), {})
    assert report and not report.ok and f"{tmp_path}/checkpoints: File exists" in report.reason


def test_no_permission(tmp_path: Path) -> None:
    """As another user, whom the mode bits bind, which they do not for root."""
    saver = Saver(tmp_path, CheckpointConfig(), 0, 1, LocalCoordinator())
    saver.save(1, pieces(10), {})
    (tmp_path / "checkpoints").chmod(0o700)
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        (tmp_path / "checkpoints").chmod(0)
    try:
        report = saver.save(2, pieces(10), {})
        assert report and not report.ok and "Permission denied" in report.reason
        for ask in (newest_good, resolve, clean):
            with pytest.raises(UserError, match="Permission denied"):
                ask(tmp_path)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "checkpoints").chmod(0o700)
    assert newest_good(tmp_path)[0] == tmp_path / "checkpoints/step-00000001"


@pytest.mark.slow
@pytest.mark.parametrize("async_", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_any_rank_fails_the_save_on_all(tmp_path: Path, rank: int, async_: bool) -> None:
    """One rank may write no file beyond 4 kB (RLIMIT_FSIZE), as under a quota."""
    settings = {"async": async_, "max_failures": 3}
    outcomes = run_plan(Plan(tmp_path, (1, 2, 3), 2, settings, file_limit={rank: 4096}))
    assert [outcomes[r][0] for r in (0, 1)] == [False] * 2, outcomes
    # What is still under way at the end is not made up for by a later save.
    assert [bool(outcomes[r][1]) for r in (0, 1)] == [async_] * 2, outcomes
    file = rf"rank {rank}: {tmp_path}/checkpoints/\.tmp-[^/]+/weights-rank-000{rank}.safetensors"
    assert [line for line in outcomes[0][2] if re.search(f"{file}: File too large", line)], outcomes
    assert not outcomes[1][2], "only rank 0 speaks"
    assert names(tmp_path) == ["latest", "step-00000001"]
    assert_holds(tmp_path / "checkpoints/step-00000001", 1)


@pytest.mark.slow
def test_too_many_failures_end_the_run_on_all_ranks(tmp_path: Path) -> None:
    outcomes = run_plan(Plan(tmp_path, (1, 2, 3, 4), 2, {"max_failures": 2}, file_limit={1: 4096}))
    for rank in (0, 1):
        assert "step 3: the last 2 saves in a row failed" in str(outcomes[rank][1]), outcomes
        assert "weights-rank-0001.safetensors: File too large" in str(outcomes[rank][1])
        assert "the newest checkpoint is of step 1" in str(outcomes[rank][1])
