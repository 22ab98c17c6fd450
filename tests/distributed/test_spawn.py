"""Ranks on one machine: the first failure is what the user sees, and nobody is left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pretrain.distributed import spawn as spawn_module
from pretrain.run.signals import Signals

SPAWN = """
import sys
from pretrain.distributed.spawn import spawn
sys.exit(spawn([sys.executable, *sys.argv[2:]], int(sys.argv[1])))
"""
RANK = "import os, sys, time, signal; rank = int(os.environ['RANK']); "

pytestmark = pytest.mark.slow


def run(body: str, processes: int = 3) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SPAWN, str(processes), "-c", RANK + body]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_all_ranks_done() -> None:
    done = run("assert os.environ['WORLD_SIZE'] == '3'; print('rank', rank)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "rank 0\n", "")


def test_the_first_defect_is_shown_although_rank_0_ends_too(tmp_path: Path) -> None:
    # The parent has seen it end: before, it would be a zombie.
    pid = str(tmp_path / "pid")
    others = f"while not (os.path.exists({pid!r}) and open({pid!r}).read()): time.sleep(0.01)\n"
    others += f"while os.path.exists('/proc/' + open({pid!r}).read()): time.sleep(0.01)"
    culprit = f"open({pid!r}, 'w').write(str(os.getpid()))"
    done = run(f"exec({culprit!r} if rank == 2 else {others!r}); sys.exit(f'culprit {{rank}}')")
    assert done.returncode == 1
    assert "[rank 2] culprit 2" in done.stderr


def test_what_all_ranks_raise_is_shown_once() -> None:
    done = run("time.sleep(0.3 * (rank == 0)); print('refused', file=sys.stderr); sys.exit(2)")
    assert (done.returncode, done.stderr) == (2, "refused\n")


def test_a_killed_rank_is_named_and_the_others_end_at_once() -> None:
    began = time.monotonic()
    done = run("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(290)")
    assert done.returncode == 137
    assert f"rank 1 on {socket.gethostname()} was killed by SIGKILL" in done.stderr
    assert time.monotonic() - began < 250


def test_one_that_ends_first_for_a_killed_one_is_not_to_blame() -> None:
    """The kernel takes its time over a large process that is killed."""
    done = run("time.sleep(rank == 1); os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else sys.exit(4)")
    assert done.returncode == 137
    assert f"rank 1 on {socket.gethostname()} was killed by SIGKILL" in done.stderr


def test_a_stopped_rank_does_not_hold_up_the_end() -> None:
    """Nor does the time that others may take to end by themselves, which is for ever here."""
    body = "os.kill(os.getpid(), signal.SIGSTOP) if rank == 1 else time.sleep(1); sys.exit(4 * (rank == 2))"
    spawn = SPAWN.replace("sys.exit", "pretrain.distributed.spawn.GRACE_SECONDS = 10_000\nsys.exit")
    command = [sys.executable, "-c", f"import pretrain.distributed.spawn\n{spawn}", "3", "-c", RANK + body]
    assert subprocess.run(command, timeout=300, check=False).returncode == 4


def test_signals_reach_all_ranks(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); "
    body += f"open(os.path.join({str(tmp_path)!r}, str(rank)), 'w').close(); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", SPAWN, "2", "-c", RANK + body]) as parent:
        while not all((tmp_path / name).exists() for name in ("0", "1")):
            assert parent.poll() is None
            time.sleep(0.02)
        parent.send_signal(signal.SIGUSR1)
        assert parent.wait(250) == 75


def test_a_signal_while_ranks_are_started_reaches_all() -> None:
    """Threads take it, though the main thread holds it back."""
    honest = spawn_module._start

    def start(relay: Any, command: Any, rank: int, *more: Any) -> Any:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return honest(relay, command, rank, *more)

    wait = "import signal; signal.sigwait([signal.SIGTERM]); raise SystemExit(75)"
    with mock.patch.object(spawn_module, "_start", start), Signals() as signals:
        assert spawn_module.spawn([sys.executable, "-c", wait], 3, signals) == 75


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are tied to their parent by a Linux call")
def test_ranks_die_with_their_parent(tmp_path: Path) -> None:
    body = f"open(os.path.join({str(tmp_path)!r}, str(rank)), 'w').write(str(os.getpid())); time.sleep(50)"
    with subprocess.Popen([sys.executable, "-c", SPAWN, "2", "-c", RANK + body]) as parent:
        files = [tmp_path / "0", tmp_path / "1"]
        while not all(file.exists() and file.read_text() for file in files):
            time.sleep(0.05)
        pids = [int(file.read_text()) for file in files]
        parent.kill()
        parent.wait(250)
    deadline = time.monotonic() + 250
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "a rank outlived its parent"
        time.sleep(0.1)
