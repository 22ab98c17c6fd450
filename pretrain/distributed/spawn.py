"""Runs a command as N ranks on this machine: `pretrain train CONFIG --processes N`.

The parent runs the store for the rendezvous (so no port can be lost to a race), forwards signals, stops all
ranks as soon as one fails, and shows what the first failed rank printed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from data_tools.children import Child
from pretrain.distributed.launcher import HELD
from pretrain.distributed.ranks import process_state
from pretrain.distributed.secret import VARIABLE, new_secret
from pretrain.distributed.store import StoreServer
from pretrain.errors import HealthError
from pretrain.run.limits import raise_open_files
from pretrain.run.relay import Relay
from pretrain.run.signals import HANDLED, Signals

GRACE_SECONDS = 20.0
"""How long the other ranks may take to end by themselves once a rank has failed."""

AGREED = (2, 3, 4, 75)
"""Exit codes of errors that all ranks raise together."""


@dataclass
class _Rank:
    rank: int
    process: Child
    errors: IO[bytes] | None
    """File for the standard error of a rank other than 0."""


def spawn(
    command: Sequence[str],
    processes: int,
    signals: Signals | None = None,
    last_place: Callable[[int, int], str] = lambda rank, pid: "",
) -> int:
    """Run a command as ranks 0 to processes - 1 and wait for all.

    Args:
        command: program and arguments.
        signals: those caught by the parent. If given, ranks start with these signals blocked until they have
            handlers of their own, so none is lost while a rank starts.
        last_place: from rank and pid, what a killed rank was doing, for the message.

    Returns:
        The exit code of the whole command: 0 if every rank ended with 0; 75 if ranks stopped early with a
        checkpoint; otherwise the code of the first rank that failed.
    """
    raise_open_files()
    secret = new_secret()
    store = StoreServer(socket.create_server(("127.0.0.1", 0), backlog=socket.SOMAXCONN), secret.encode())
    ranks: list[_Rank] = []
    try:
        with Relay() as relay:
            # A child inherits its parent's mask. Without it, a signal that comes before the child has
            # handlers would be lost.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED if signals is not None else ())
            for rank in range(processes):
                ranks.append(_start(relay, command, rank, processes, store.port, secret))
            if signals is not None and signals.pending():
                relay.send(signals.pending())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return _wait(ranks, last_place)
    finally:
        for each in ranks:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()
        store.close()


def _start(relay: Relay, command: Sequence[str], rank: int, processes: int, port: int, secret: str) -> _Rank:
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {
        "OMP_NUM_THREADS": str(threads),  # before os.environ, so that the user's own setting wins
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        HELD: "True",  # the parent runs the store; rank 0 must not
        VARIABLE: secret,
    }
    errors = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the rank
    stdout = None if rank == 0 else subprocess.DEVNULL
    return _Rank(rank, relay.start(command, env=environment, stdout=stdout, stderr=errors), errors)


def _wait(ranks: Sequence[_Rank], last_place: Callable[[int, int], str]) -> int:
    first: _Rank | None = None
    ended_here: set[int] = set()
    deadline = float("inf")
    while any(each.process.poll() is None for each in ranks):
        if first is None:
            first = _first_failed(ranks)
            deadline = time.monotonic() + GRACE_SECONDS if first else deadline
            if first and first.process.returncode < 0:
                deadline = time.monotonic()  # killed: the others would wait for it in a collective forever
        for each in ranks if first else ():
            stopped = process_state(each.process.pid) == "T"  # suspended, so it cannot end by itself
            if each.process.poll() is None and (stopped or time.monotonic() > deadline):
                each.process.kill()
                ended_here.add(each.rank)
        time.sleep(0.02)
    first = first or _first_failed(ranks)
    if first is not None and first.process.returncode == HealthError.exit_code:
        # It may have reported a killed rank as gone before the kernel had finished with that process.
        others = (each for each in ranks if each.rank not in ended_here)
        first = next((each for each in others if each.process.returncode == -signal.SIGKILL), first)
    if first is None:
        return 0
    return _report(first, ranks, last_place)


def _first_failed(ranks: Sequence[_Rank]) -> _Rank | None:
    """A rank that has failed so far; one that was killed comes before those that ended because of it."""
    failed = [each for each in ranks if each.process.poll() not in (None, 0)]
    return min(failed, key=lambda each: each.process.returncode >= 0, default=None)


def _report(first: _Rank, ranks: Sequence[_Rank], last_place: Callable[[int, int], str]) -> int:
    """Show what the first failed rank printed, unless rank 0 has printed the same, and return the exit
    code."""
    code = first.process.returncode
    # Errors that a user can cause are raised on all ranks, and rank 0 has printed them. After a bug on one
    # rank, rank 0 ends too, but reports a lost connection.
    shown = code in AGREED and ranks[0].process.returncode == code
    if first.errors is not None and not shown:
        first.errors.seek(0)
        for line in first.errors.read().decode(errors="replace").splitlines()[-40:]:
            print(f"[rank {first.rank}] {line}", file=sys.stderr)
    if code < 0:
        name, doing = signal.Signals(-code).name, last_place(first.rank, first.process.pid)
        print(
            f"pretrain: rank {first.rank} on {socket.gethostname()} was killed by {name}{doing}; the other "
            "ranks were ended",
            file=sys.stderr,
        )
        return 128 - code
    return code
