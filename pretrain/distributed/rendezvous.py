"""How ranks find each other: a store on rank 0 or in `spawn`, and a wait until all ranks have joined.

Only ranks that know the job's secret are let in (`store.py`). Every rank registers its number in the store.
So ranks that wait can say which others are missing, and a signal cancels the wait.

torchrun may restart the ranks of a node at any time, before or after those of other nodes, and each agent
counts its restarts on its own. So this file does not rely on restart counts: the store of an attempt belongs
to its rank 0, and a rendezvous round in it that has ranks from two starts of one node is abandoned for the
next one.
"""

import errno
import ipaddress
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from data_tools import children
from pretrain.distributed.launcher import HELD
from pretrain.distributed.ranks import some_ranks
from pretrain.distributed.secret import VARIABLE, job_secret
from pretrain.distributed.store import Impostor, StoreServer, knock
from pretrain.errors import HealthError, StoppedEarly, UserError
from pretrain.run.signals import signal_name

JOIN_SECONDS = 600.0
"""How long ranks wait for each other if no config sets `health.join_timeout`."""
STORE_TIMEOUT = timedelta(minutes=30)
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 0.05
LOOKS_PER_SECOND = 5_000
"""Polls of the store by all ranks together, in a world too large for `LOOK_SECONDS`."""
PART_SECONDS = 4.0
"""How long the rank with the store waits for the others at the end; some may have been killed, and srun kills
this rank a few seconds after them (`--wait`, which must leave time for the uploader too)."""
FAILED_PART_SECONDS = 2.0
"""The same, if the rank ends with an error."""
_PORT = "pretrain/port"
"""Key in the agent's store with the port of the ranks' own store."""
_JOINED, _COUNT, _OUTCOME = "joined", "count", "outcome"
"""Keys of one rendezvous round."""
_COMPLETE, _MIXED = "complete", "mixed"
_LEFT = "meeting/left"


@dataclass(frozen=True)
class Rendezvous:
    """All ranks, with a store that connects them."""

    rank: int
    size: int
    store: Store
    server: StoreServer | None
    """Set if this rank runs the store."""

    def part(self, patience: float) -> None:
        """Leave the rendezvous; call it when this rank no longer reads from the store.

        The rank with the store leaves last, if `patience` (seconds) allows it: a slower rank may still be
        reading how the last save ended.
        """
        with suppress(dist.DistError):  # the rank with the store has waited long enough and is gone
            self.store.add(_LEFT, 1)
            deadline = time.monotonic() + patience
            while self.server and self.store.add(_LEFT, 0) < self.size and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        if self.server is not None:
            self.server.close()


def meet_ranks(rank: int, size: int, patience: float, given_up: Callable[[], int]) -> Rendezvous:
    """The rendezvous of all ranks at MASTER_ADDR and MASTER_PORT, once all have joined.

    Args:
        rank: this one.
        size: ranks to wait for.
        patience: seconds to wait.
        given_up: the signal that cancels the wait, 0 while there is none.

    Raises:
        HealthError: some ranks have not joined; names them.
        StoppedEarly: a signal came.
        UserError: no rendezvous is possible, for example because the port is in use, or the ranks share no
            secret.
    """
    wait = _Wait(rank, size, patience, given_up)
    secret = job_secret(os.environ)
    server = None
    try:
        address = _Address.of(os.environ)
        server = address.serve(secret) if _holds_store(rank) else None
        store = _find_all(address, secret, rank, size, wait)
        store.set_timeout(STORE_TIMEOUT)
        return Rendezvous(rank, size, store, server)
    except BaseException as error:
        if server is not None:
            server.close()
        if not isinstance(error, ValueError | OSError | dist.DistError):
            raise
        reason = str(error).splitlines()[0]
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            reason = "the port is in use; choose another one (torchrun: --master-port, or --standalone)"
        raise UserError(f"rank {rank} of {size} cannot meet the others at {_names()}: {reason}") from None


class _Wait:
    """A wait that ends on a signal, or when it has lasted too long."""

    def __init__(self, rank: int, size: int, patience: float, given_up: Callable[[], int]) -> None:
        self._rank, self._size, self._patience, self._given_up = rank, size, patience, given_up
        self._deadline = time.monotonic() + patience

    def is_over(self) -> NoReturn:
        """Call this when the process with the store is gone; raises StoppedEarly or HealthError."""
        self._look_for_signal()
        host = "the launcher" if os.environ.get(HELD) else "rank 0"
        raise HealthError(
            f"{host} of {self._size} ranks, at {_names()}, ended while rank {self._rank} on "
            f"{socket.gethostname()} waited for the others; it says why"
        )

    def _look_for_signal(self) -> None:
        number = self._given_up()
        if number:
            raise StoppedEarly(
                f"stopped by {signal_name(number)} in start-up: nothing is lost, the same command goes on"
            )

    def pause(self, missing: Callable[[], list[int]]) -> None:
        """Sleep a moment while ranks are missing; raises HealthError at the deadline, StoppedEarly on a
        signal."""
        self._look_for_signal()
        if time.monotonic() > self._deadline:
            raise HealthError(self._who_is_missing(missing()))
        time.sleep(max(LOOK_SECONDS, self._size / LOOKS_PER_SECOND))

    def _who_is_missing(self, lost: list[int]) -> str:
        hosts = expected_hosts(os.environ, self._size)
        where = f" (on {', '.join(sorted({hosts[rank] for rank in lost}))})" if hosts else ""
        return (
            f"{some_ranks(lost)}{where} of {self._size} did not come within {self._patience:g} s "
            f"(health.join_timeout); rank {self._rank} on {socket.gethostname()} waited at {_names()}"
        )


@dataclass(frozen=True)
class _Address:
    """Where ranks look for the store."""

    host: str
    port: int
    agent: TCPStore | None
    """The store of torchrun's agent, in which rank 0 publishes the port of its own: the agent's store lets
    anybody in."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "_Address":
        host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", "")
        if not host:
            raise ValueError("MASTER_ADDR is not set")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise ValueError("MASTER_PORT must be from 1 to 65535")
        agent = None
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
            agent = TCPStore(
                host, int(port), wait_for_workers=False, timeout=timedelta(seconds=CONNECT_SECONDS)
            )
        return cls(host, int(port), agent)

    def serve(self, secret: bytes) -> StoreServer:
        """Run the store, on the address that the others use and on no other."""
        endpoint = (_listening_host(self.host), 0 if self.agent else self.port)
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        server = StoreServer(socket.create_server(endpoint, family=family, backlog=socket.SOMAXCONN), secret)
        if self.agent is not None:
            self.agent.set(_PORT, str(server.port))
        return server

    def find(self) -> tuple[str, int] | None:
        """Host and port of the store; None while unknown; those of an earlier attempt until rank 0 is
        restarted."""
        if self.agent is None:
            return self.host, self.port
        if not self.agent.check([_PORT]):
            return None
        return self.host, int(self.agent.get(_PORT))


def _listening_host(host: str) -> str:
    """The numeric address of a host name, as the other ranks see it.

    A name may resolve to loopback on its own machine alone (Debian's /etc/hosts); if there are other
    machines, the store listens on all addresses.
    """
    address = _numeric(host)
    if not _is_loopback(address):
        return address
    names: list[str] = []
    with suppress(UserError):  # a container image may have no scontrol
        names = _host_names(os.environ)
    hosts = [_numeric(name) for name in names]
    alone = all(_is_loopback(each) for each in hosts) if hosts else is_one_machine(os.environ) is not False
    return address if alone else "0.0.0.0"


def _numeric(host: str) -> str:
    """An address of a host, without the zone of an IPv6 address."""
    found: str = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]  # type: ignore[assignment]
    return found.partition("%")[0]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def is_one_machine(environment: Mapping[str, str]) -> bool | None:
    """Whether all ranks run on this machine; None if the launcher does not say."""
    if environment.get(HELD):
        return True
    if "SLURM_STEP_NUM_NODES" in environment and "SLURM_PROCID" in environment:
        return environment["SLURM_STEP_NUM_NODES"] == "1"
    if "LOCAL_WORLD_SIZE" in environment:
        return environment["LOCAL_WORLD_SIZE"] == environment.get("WORLD_SIZE")
    return True if environment.get("MASTER_ADDR") in ("127.0.0.1", "::1", "localhost") else None


def _holds_store(rank: int) -> bool:
    """Whether this rank runs the store; `spawn` runs it itself, so that no rank can lose the port."""
    return rank == 0 and not os.environ.get(HELD)


def _find_all(address: _Address, secret: bytes, rank: int, size: int, wait: _Wait) -> Store:
    """The store in which the rendezvous of all ranks is complete."""
    earlier: set[str] = set()
    while True:
        prefix, whole = _connect(address, secret, wait, earlier)
        try:
            # A process may meet the others several times in one store: its nth rendezvous is their nth.
            turn = whole.add(f"turns of rank {rank}, process {os.getpid()}", 1)
            store = PrefixStore(f"turn/{turn}", whole)
            if _wait_for_all(store, rank, size, wait):
                return store
        except dist.DistError:
            wait.is_over()
        earlier.add(prefix)


def _connect(address: _Address, secret: bytes, wait: _Wait, earlier: set[str]) -> tuple[str, Store]:
    """Connect to the store once it is there. Unlike torch's own way, this stops on a signal.

    Returns:
        The prefix of its keys, none of the `earlier` attempts', and the store with that prefix.
    """
    while True:
        address_of_store = address.find()
        with suppress(OSError, dist.DistError):  # not started yet, or already gone
            if address_of_store is not None:
                with socket.create_connection(address_of_store, timeout=CONNECT_SECONDS) as connection:
                    prefix = _introduce(connection, secret)
                    host, port = connection.getpeername()[:2]
                # Each server has its own salt and so its own prefix: a known prefix is an earlier attempt's.
                if prefix not in earlier:
                    patience = timedelta(seconds=CONNECT_SECONDS)
                    found = TCPStore(host, port, wait_for_workers=False, timeout=patience)
                    return prefix, PrefixStore(prefix, found)
        wait.pause(lambda: [0])


def _introduce(connection: socket.socket, secret: bytes) -> str:
    try:
        return knock(connection, secret)
    except Impostor:
        raise UserError(
            f"{_names()}: who answers there is not of this job, or its ranks have different secrets: "
            f"give all of them the same {VARIABLE} (docs/security.md)"
        ) from None


def _wait_for_all(store: Store, rank: int, size: int, wait: _Wait) -> bool:
    """Join the rendezvous in this store; False if all others completed it with an earlier start of this
    rank."""
    node, start = (os.environ.get(name, "0") for name in ("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT"))
    for number in itertools.count():
        attempt = PrefixStore(f"meeting/{number}", store)
        attempt.append(_JOINED, f"{rank}:{node}:{start} ")  # type: ignore[attr-defined]
        arrival = attempt.add(_COUNT, 1)
        if arrival == size:
            attempt.set(_OUTCOME, _MIXED if _is_mixed(_joined(attempt), size) else _COMPLETE)
        while not attempt.check([_OUTCOME]):
            wait.pause(partial(_missing, attempt, size))
        if attempt.get(_OUTCOME).decode() == _COMPLETE:
            # Arriving after the round was complete: it counted an earlier start of this rank.
            return arrival <= size
    raise AssertionError


def _joined(meeting: Store) -> list[tuple[int, str, str]]:
    """Rank, node and number of the start of each rank that has joined."""
    entries = (entry.split(":") for entry in meeting.get(_JOINED).decode().split())
    return [(int(rank), node, start) for rank, node, start in entries]


def _is_mixed(joined: list[tuple[int, str, str]], size: int) -> bool:
    """Whether some ranks that joined have been restarted since."""
    starts = {(node, start) for _, node, start in joined}
    return len(starts) > len({node for node, _ in starts}) or len({rank for rank, *_ in joined}) < size


def _missing(meeting: Store, size: int) -> list[int]:
    there = {rank for rank, *_ in _joined(meeting)}
    return [rank for rank in range(size) if rank not in there]


def expected_hosts(environment: Mapping[str, str], size: int) -> list[str] | None:
    """The host of every rank in a Slurm step; None if it is not known."""
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
    # Slurm's defaults: node by node (block), or round robin where each node has at most one rank.
    order = environment.get("SLURM_DISTRIBUTION", "block").partition(":")[0]
    if order == "block" or max(counts) == 1:
        return [name for name, count in nodes for _ in range(count)]
    if order == "cyclic":
        return [name for turn in range(max(counts)) for name, count in nodes if turn < count]
    return None


def _names() -> str:
    return ", ".join(f"{name}={os.environ.get(name, '')}" for name in ("MASTER_ADDR", "MASTER_PORT"))


def first_host(environment: Mapping[str, str]) -> str:
    """The host of rank 0 in a Slurm step."""
    return next(iter(_host_names(environment)), "127.0.0.1")


def _host_names(environment: Mapping[str, str]) -> list[str]:
    """Hosts of a Slurm step, in order; empty outside of one."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not nodes:
        return []
    if not set(nodes) & set(",["):
        return [nodes]
    try:
        command = ["scontrol", "show", "hostnames", nodes]
        answer = children.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"there is no scontrol here (in an image?) to tell the first of {nodes}: set MASTER_ADDR to it"
        ) from None
    if answer.returncode != 0:
        raise UserError(f"scontrol show hostnames {nodes} failed: {answer.stderr.strip()}; set MASTER_ADDR")
    return answer.stdout.split()
