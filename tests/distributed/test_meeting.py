"""Ranks that meet, that do not come, and that are told to stop before they have met."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from config_files import REPOSITORY, write_config
from mlflow_server import free_port
from torch.distributed import PrefixStore, TCPStore

from pretrain.config.sections import ParallelConfig
from pretrain.distributed import rendezvous as meeting
from pretrain.distributed.launcher import RankInfo
from pretrain.distributed.rendezvous import expected_hosts, meet_ranks
from pretrain.distributed.secret import job_secret, new_secret
from pretrain.distributed.store import StoreServer, knock
from pretrain.distributed.world import init_distributed
from pretrain.errors import HealthError, StoppedEarly, UserError
from pretrain.megatron.parallel_dims import build_parallel_dims


def connected(port: int, secret: bytes) -> PrefixStore:
    """A client of a store on loopback."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        prefix = knock(connection, secret)
    return PrefixStore(prefix, TCPStore("127.0.0.1", port, wait_for_workers=False))


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETRAIN_SECRET", new_secret())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


def test_all_meet_whoever_comes_first() -> None:
    def come(rank: int) -> bytes:
        time.sleep(0.1 * (2 - rank))
        meeting = meet_ranks(rank, 3, 20, lambda: 0)
        meeting.store.set(f"from {rank}", str(rank))
        told = bytes(meeting.store.get(f"from {(rank + 1) % 3}"))
        meeting.part(60)
        return told

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(come, rank) for rank in (1, 2)]
        assert [come(0), *(other.result() for other in others)] == [b"1", b"2", b"0"]


READS_LATE = """
import time
from pretrain.distributed.world import init_distributed
from pretrain.run.exit import run_and_exit

def main():
    with init_distributed() as world:
        if world.is_first:
            world.store.set("verdict", "good")
        else:
            world.store.get("verdict")
            time.sleep(1)
            print(bytes(world.store.get("verdict")))

run_and_exit(main)
"""


def test_who_holds_the_store_leaves_last() -> None:
    """Ranks of srun: one that is slow still learns how the last save ended."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", READS_LATE],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert said[1][0] == "b'good'\n"


def test_nobody_waits_long_for_those_who_were_killed() -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet_ranks, 1, 2, 20, lambda: 0)
        first, second = meet_ranks(0, 2, 20, lambda: 0), other.result()
    began = time.monotonic()
    first.part(0.3)
    assert 0.3 <= time.monotonic() - began < 5
    second.part(0.3)  # the store is gone


def test_a_world_takes_its_layout_along() -> None:
    """So that a process can score one checkpoint after another."""
    for _ in range(2):
        with init_distributed(RankInfo(0, 1, 0, "alone")) as world:
            assert build_parallel_dims(world, ParallelConfig()).data_size == 1


def test_those_who_have_not_come_are_named() -> None:
    def come(rank: int) -> str:
        with pytest.raises(HealthError) as refusal:
            meet_ranks(rank, 4, 3 - rank / 2, lambda: 0)
        return str(refusal.value)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come, 2)
        said = [come(0), other.result()]
    assert said[0].startswith("ranks 1, 3 of 4 did not come within 3 s (health.join_timeout); rank 0 on ")


def test_without_its_first_rank_there_is_no_meeting() -> None:
    with pytest.raises(HealthError, match=r"rank 0 of 2 did not come within 0\.2 s"):
        meet_ranks(1, 2, 0.2, lambda: 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_calls_the_wait_off(rank: int) -> None:
    with pytest.raises(StoppedEarly, match="stopped by SIGUSR1 in start-up"):
        meet_ranks(rank, 2, 60, lambda: int(signal.SIGUSR1))


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UserError, match=r"at MASTER_ADDR=, MASTER_PORT=\d+: MASTER_ADDR is not set"):
        meet_ranks(0, 2, 1, lambda: 0)


def test_hosts_are_known_in_a_slurm_step_alone() -> None:
    assert expected_hosts({}, 2) is None
    assert expected_hosts({"SLURM_STEP_TASKS_PER_NODE": "2"}, 2) is None


@pytest.mark.parametrize(
    ("master", "hosts", "variables", "address"),
    [
        ("192.0.2.7", ["192.0.2.7", "192.0.2.8"], {}, "192.0.2.7"),
        ("localhost", [], {}, "127.0.0.1"),
        ("127.0.1.1", ["127.0.1.1", "127.0.0.1"], {}, "127.0.1.1"),
        ("127.0.1.1", ["127.0.1.1", "192.0.2.8"], {}, "0.0.0.0"),
        ("127.0.1.1", [], {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "0.0.0.0"),
        ("127.0.1.1", [], {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "127.0.1.1"),
    ],
)
def test_the_store_listens_where_the_ranks_look_for_it(
    master: str, hosts: list[str], variables: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MASTER_ADDR": "node-1", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "_host_names", lambda environment: hosts)
    assert meeting._listening_host(master) == address


@pytest.mark.slow
def test_a_rank_of_the_command_says_who_is_missing(tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", run__dir=str(tmp_path / "run"), health__join_timeout=0.5)
    rank = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", "train", config],
        cwd=REPOSITORY,
        env={**os.environ, **rank},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr
    assert "pretrain: error: rank 1 of 2 did not come within 0.5 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "kind"), [(0, HealthError), (signal.SIGTERM, StoppedEarly)])
def test_those_who_wait_on_when_the_first_rank_has_gone(number: int, kind: type[UserError]) -> None:
    """It had less patience, or was told of the signal first."""
    signals = [0]

    def come() -> None:
        with pytest.raises(kind, match=r"waited for the others; it says why|stopped by SIGTERM"):
            meet_ranks(1, 3, 60, lambda: signals[0])

    secret = job_secret(os.environ)
    server = StoreServer(socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"]))), secret)
    store = connected(server.port, secret)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(come)
        store.wait(["turn/1/meeting/0/joined"], timedelta(seconds=60))
        signals[0] = number
        server.close()
        waits.result()


def test_a_store_that_goes_before_one_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal is seen all the same."""
    monkeypatch.setattr(meeting, "CONNECT_SECONDS", 1.0)
    listener = socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"])))

    def see_one_and_go() -> None:
        seen, _ = listener.accept()
        listener.close()
        seen.close()

    goes = threading.Thread(target=see_one_and_go)
    goes.start()
    with pytest.raises(StoppedEarly, match="stopped by SIGTERM in start-up"):
        meet_ranks(1, 2, 300, lambda: 0 if goes.is_alive() else int(signal.SIGTERM))
    goes.join()


AGAIN = """
import torch
import torch.distributed as dist
from pretrain.distributed.world import init_distributed
for turn in range(1, 4):
    with init_distributed() as world:
        summed = torch.full((), float(turn))
        dist.all_reduce(summed)
        assert summed == turn * world.size
"""


@pytest.mark.slow
def test_ranks_meet_again_and_again_in_one_store(tmp_path: Path) -> None:
    """The store is that of `spawn`, which lasts; each time is a world of its own."""
    (tmp_path / "again.py").write_text(AGAIN)
    spawning = "import sys; from pretrain.distributed.spawn import spawn; sys.exit(spawn(sys.argv[1:], 2))"
    command = [sys.executable, "-c", spawning, sys.executable, str(tmp_path / "again.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
