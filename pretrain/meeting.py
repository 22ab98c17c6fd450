"""How ranks find one another: a store that rank 0 or the launcher holds, and a wait until all are there.

Every rank leaves its number in the store. So those who wait can say who has not come, and a signal calls
the wait off.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from pretrain.errors import HealthError, StoppedEarly, UserError
from pretrain.health.beat import some_ranks
from pretrain.signals import signal_name

JOIN_SECONDS = 600.0
"""How long ranks wait for one another where no config says (`health.join_timeout`)."""
STORE_TIMEOUT = timedelta(minutes=30)
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 0.05
LOOKS_PER_SECOND = 5_000
"""Looks that the store gets from all ranks together, in a world too large for `LOOK_SECONDS`."""
PART_SECONDS = 4.0
"""How long the rank that holds the store stays for the others; some may have been killed, and srun ends it
a few seconds after them (`--wait`, which must leave time for the uploader too)."""
FAILED_PART_SECONDS = 2.0
"""As long where it has an error to tell."""
_JOINED, _COUNT, _COMPLETE = "meeting/joined", "meeting/count", "meeting/complete"
_LEFT = "meeting/left"


def meet(rank: int, size: int, patience: float, given_up: Callable[[], int]) -> Store:
    """The store of all ranks at MASTER_ADDR and MASTER_PORT, once all are there.

    Args:
        rank: this one.
        size: ranks to wait for.
        patience: seconds to wait.
        given_up: the signal that calls the wait off, 0 while there is none.

    Raises:
        HealthError: some ranks have not come; names them.
        StoppedEarly: a signal came.
        UserError: there can be no meeting, such as where the port is in use.
    """
    wait = _Wait(rank, size, patience, given_up)
    try:
        store = _open(rank, wait)
        try:
            _wait_for_all(store, rank, size, wait)
        except dist.DistError:
            wait.is_over()
        store.set_timeout(STORE_TIMEOUT)
    except (ValueError, OSError, dist.DistError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in reason:
            reason = "the port is in use; choose another one (torchrun: --master-port, or --standalone)"
        raise UserError(f"rank {rank} of {size} cannot meet the others at {_address()}: {reason}") from None
    return store


def part(store: Store, rank: int, size: int, patience: float) -> None:
    """Leave the others; call it when this rank reads from the store no more.

    The rank that holds the store goes last, if `patience` (seconds) allows it: one that is slower may still
    be reading how the last save ended.
    """
    with suppress(dist.DistError):  # whoever held it has waited long enough
        store.add(_LEFT, 1)
        deadline = time.monotonic() + patience
        while _holds_store(rank) and store.add(_LEFT, 0) < size and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)


class _Wait:
    """A wait that ends on a signal, or when it has lasted too long."""

    def __init__(self, rank: int, size: int, patience: float, given_up: Callable[[], int]) -> None:
        self._rank, self._size, self._patience, self._given_up = rank, size, patience, given_up
        self._deadline = time.monotonic() + patience

    def is_over(self) -> NoReturn:
        """Whoever holds the store has gone; raises StoppedEarly or HealthError."""
        self._look_for_signal()
        host = "rank 0" if _holds_store(0) else "the launcher"
        raise HealthError(
            f"{host} of {self._size} ranks, at {_address()}, ended while rank {self._rank} on "
            f"{socket.gethostname()} waited for the others; it says why"
        )

    def _look_for_signal(self) -> None:
        number = self._given_up()
        if number:
            raise StoppedEarly(
                f"stopped by {signal_name(number)} in start-up: nothing is lost, the same command goes on"
            )

    def pause(self, missing: Callable[[], list[int]]) -> None:
        """Wait a moment for these ranks; raises HealthError or StoppedEarly where it is enough."""
        self._look_for_signal()
        if time.monotonic() > self._deadline:
            raise HealthError(self._who_is_missing(missing()))
        time.sleep(max(LOOK_SECONDS, self._size / LOOKS_PER_SECOND))

    def _who_is_missing(self, lost: list[int]) -> str:
        hosts = expected_hosts(os.environ, self._size)
        where = f" (on {', '.join(sorted({hosts[rank] for rank in lost}))})" if hosts else ""
        return (
            f"{some_ranks(lost)}{where} of {self._size} did not come within {self._patience:g} s "
            f"(health.join_timeout); rank {self._rank} on {socket.gethostname()} waited at {_address()}"
        )


def _open(rank: int, wait: _Wait) -> Store:
    """Open the store, or connect to it once it is there."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host:
        raise ValueError("MASTER_ADDR is not set")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError("MASTER_PORT must be from 1 to 65535")
    if _holds_store(rank):
        return TCPStore(host, int(port), is_master=True, wait_for_workers=False, multi_tenant=True)
    while True:
        _await_listener(host, int(port), wait)
        with suppress(dist.DistError):  # it has gone since
            return TCPStore(
                host, int(port), wait_for_workers=False, timeout=timedelta(seconds=CONNECT_SECONDS)
            )
        wait.pause(lambda: [0])


def _holds_store(rank: int) -> bool:
    """Whether a rank does; torchrun and `spawn` do it themselves, so that no rank can lose the port."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)


def _await_listener(host: str, port: int, wait: _Wait) -> None:
    """Wait in a way that ends on a signal, as a store that connects does not."""
    while True:
        with suppress(OSError), socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return
        wait.pause(lambda: [0])


def _wait_for_all(store: Store, rank: int, size: int, wait: _Wait) -> None:
    store.append(_JOINED, f"{rank} ")  # type: ignore[attr-defined]
    if store.add(_COUNT, 1) == size:
        store.set(_COMPLETE, "1")
    while not store.check([_COMPLETE]):
        wait.pause(lambda: _missing(store, size))


def _missing(store: Store, size: int) -> list[int]:
    there = {int(rank) for rank in store.get(_JOINED).decode().split()}
    return [rank for rank in range(size) if rank not in there]


def expected_hosts(environment: Mapping[str, str], size: int) -> list[str] | None:
    """The host of every rank in a Slurm step; None where that is not known."""
    counts = []
    for text in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", text)
        counts += [int(match[1])] * int(match[2] or 1) if match else []
    try:
        names = _host_names(environment)
    except (UserError, OSError):
        return None
    if sum(counts) != size or len(names) != len(counts):
        return None
    nodes = list(zip(names, counts, strict=True))
    # Slurm's defaults: node by node, or in turn where there is one rank a node at most.
    order = environment.get("SLURM_DISTRIBUTION", "block").partition(":")[0]
    if order == "block" or max(counts) == 1:
        return [name for name, count in nodes for _ in range(count)]
    if order == "cyclic":
        return [name for turn in range(max(counts)) for name, count in nodes if turn < count]
    return None


def _address() -> str:
    return ", ".join(f"{name}={os.environ.get(name, '')}" for name in ("MASTER_ADDR", "MASTER_PORT"))


def first_host(environment: Mapping[str, str]) -> str:
    """Host of rank 0 in a Slurm step."""
    return next(iter(_host_names(environment)), "127.0.0.1")


def _host_names(environment: Mapping[str, str]) -> list[str]:
    """Hosts of a Slurm step, in order; none outside of one."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes:
        return []
    answer = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise UserError(f"scontrol show hostnames {nodes} failed: {answer.stderr.strip()}; set MASTER_ADDR")
    return answer.stdout.split()
