"""The ranks' store: torch's protocol as its own server has it, and nothing for those without the secret."""

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from config_files import REPOSITORY
from mlflow_server import free_port
from ranks import run_ranks
from torch.distributed import DistError, PrefixStore, Store, TCPStore

from pretrain.distributed.rendezvous import Rendezvous, meet_ranks
from pretrain.distributed.secret import job_secret, new_secret
from pretrain.distributed.store import Impostor, StoreServer, knock
from pretrain.errors import UserError

WORKER = Path(__file__).with_name("store_worker.py")
SHORT = timedelta(milliseconds=200)


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv("PRETRAIN_SECRET", new_secret())
    return job_secret(os.environ)


@pytest.fixture
def server(secret: bytes) -> Iterator[StoreServer]:
    server = StoreServer(socket.create_server(("127.0.0.1", 0)), secret)
    yield server
    server.close()


def connect(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, wait_for_workers=False, timeout=timedelta(seconds=20))


def prefix_of(server: StoreServer, secret: bytes) -> str:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        return knock(connection, secret)


def conversation(store: Any, other: Store) -> list[Any]:
    """What a store answers to everything that process groups, saves and meetings ask."""

    def wakes(write: Callable[[], None], key: str) -> bytes:
        timer = threading.Timer(0.1, write)
        timer.start()
        found = bytes(store.get(key))
        timer.join()
        return found

    said: list[Any] = [
        store.set("k", "v"),
        store.compare_set("k", "v", "w"),
        store.compare_set("k", "v", "x"),
    ]
    said += [
        store.compare_set("absent", "x", "w"),
        store.check(["absent"]),
        store.compare_set("new", "", "w"),
    ]
    said += [store.get("k"), store.add("n", 5), store.add("n", -7), store.get("n"), store.get("new")]
    said += [store.check(["k", "n"]), store.check(["k", "absent"]), store.wait(["k", "n"], SHORT)]
    with pytest.raises(DistError):
        store.wait(["absent"], SHORT)
    said += [store.append("a", "xy"), store.append("a", "z"), store.get("a")]
    said += [store.multi_set(["p", "q"], ["1", ""]), store.multi_get(["p", "a", "q"])]
    said += [store.delete_key("p"), store.delete_key("p"), store.check(["p"])]
    said += [
        store.clone().get("k"),
        len(store.get("big")) if store.set("big", b"x" * 3_000_000) is None else 0,
    ]
    said += [wakes(lambda: other.set("w1", "1"), "w1"), wakes(lambda: other.add("w2", 3) and None, "w2")]
    said += [wakes(lambda: other.append("w3", "3"), "w3")]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        stores = [store.clone() for _ in range(4)]
        said += [sorted(pool.map(lambda each: each.add("together", 1), stores))]
    return said


def test_it_answers_as_torchs_own(server: StoreServer, secret: bytes) -> None:
    torchs = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    prefix = prefix_of(server, secret)
    ours = [PrefixStore(prefix, connect(server.port)) for _ in range(2)]
    theirs = [PrefixStore(prefix, connect(torchs.port)) for _ in range(2)]
    assert conversation(*ours) == conversation(*theirs)


ASKED: dict[str, Callable[[Any], Any]] = {
    "list_keys": lambda store: store.list_keys(),
    "num_keys": lambda store: store.num_keys(),
    "get": lambda store: store.get("world/0//cpu//0/0/rank_0"),
    "check": lambda store: store.check(["meeting/joined"]),
    "add": lambda store: store.add("meeting/count", 1),
    "delete_key": lambda store: store.delete_key("meeting/joined"),
    "compare_set": lambda store: store.compare_set("meeting/complete", "", "1"),
    "multi_get": lambda store: store.multi_get(["a", "b"]),
    "queue_len": lambda store: store.queue_len("a"),
    "another prefix": lambda store: PrefixStore("0" * 64, store).check(["a"]),
}


def test_a_stranger_learns_and_changes_nothing(secret: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    server = StoreServer(socket.create_server(("127.0.0.1", 0)), secret)
    mine = PrefixStore(prefix_of(server, secret), connect(server.port))
    mine.set("meeting/joined", "0 ")
    for name, ask in ASKED.items():
        with pytest.raises(DistError):
            print(name, ask(connect(server.port)))
    with pytest.raises(DistError):
        stranger = connect(server.port)
        stranger.set("meeting/joined", "0 1 ")
        stranger.get("meeting/joined")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(b"\0" + struct.pack("<I", 0x3C85F7CE) + b"\1" + struct.pack("<Q", 1 << 40))
        assert raw.recv(1) == b""
    with pytest.raises(Impostor):
        prefix_of(server, b"another secret")
    assert mine.get("meeting/joined") == b"0 "
    server.close()
    said = capfd.readouterr().err
    assert said.count("127.0.0.1 reached the ranks' store at 127.0.0.1:") == 1, said


def test_a_stranger_is_no_rank(secret: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is rank 1, before the true one comes, in the keys that torch and we use."""
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))

    def come() -> Rendezvous:
        while True:
            try:
                stranger = connect(port)
                break
            except DistError:
                continue
        stranger.set("turn/1/meeting/0/joined", "1:0:0 ")
        with pytest.raises(DistError):
            stranger.add("turn/1/meeting/0/count", 1)
        return meet_ranks(1, 2, 60, lambda: 0)

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(come)
        meetings = [meet_ranks(0, 2, 60, lambda: 0), second.result()]
    assert sorted(meetings[0].store.get("meeting/0/joined").split()) == [b"0:0:0", b"1:0:0"]
    for meeting in reversed(meetings):
        meeting.part(20)


def test_ranks_of_different_secrets_do_not_meet(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they give anything away to whoever has taken the port."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("PRETRAIN_SECRET", new_secret())
    with pytest.raises(UserError, match=r"not of this job, or its ranks have different secrets: .*SECRET"):
        meet_ranks(1, 2, 60, lambda: 0)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(
        UserError, match="PRETRAIN_SECRET has 7 characters; a secret of a job has 32 at least"
    ):
        job_secret({"PRETRAIN_SECRET": "hunter2"})


def test_without_a_secret_ranks_share_their_users(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    with ThreadPoolExecutor(8) as pool:
        [found] = set(pool.map(lambda _: job_secret(environment), range(32)))
    assert len(found) == 64
    [file] = (tmp_path / "pretrain").iterdir()
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (found, 0o600)
    file.chmod(0o644)
    with pytest.raises(UserError, match=r"secret: others may read .* mode 0644\); remove it"):
        job_secret(environment)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("0" * 64)
    with pytest.raises(UserError, match=r"secret: the ranks' secret cannot be kept here"):
        job_secret(environment)


@pytest.mark.slow
def test_one_machine_listens_on_loopback_alone(tmp_path: Path) -> None:
    """All sockets of `--processes 2`: the store's and gloo's."""
    elsewhere = ["unshare", "--map-root-user", "--uts"]
    # Where this is allowed, with a host name that stands for another address: gloo would choose that one.
    allowed = shutil.which("unshare") and subprocess.run([*elsewhere, "true"], check=False).returncode == 0
    before = [*elsewhere, "sh", "-c", 'hostname 127.0.0.2; exec "$@"', "sh"] if allowed else []
    done = run_ranks(WORKER, 2, {"listening": str(tmp_path)}, before=before)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len(found) == 2 and all(len(each) >= 2 for each in found)
    assert {host for each in found for host in each} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_rank_that_lies_runs_no_code(tmp_path: Path) -> None:
    """It has the secret, and sends pickles where megatron-core gathers objects."""
    done = run_ranks(WORKER, 2, {"evil": str(tmp_path / "ran")})
    assert done.returncode != 0
    assert "JSONDecodeError" in done.stderr or "UnicodeDecodeError" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()


RESTARTS = """
import os
import torch
from pretrain.distributed.world import init_distributed
from pretrain.run.exit import run_and_exit

def main():
    with init_distributed() as world:
        value = torch.ones(1)
        torch.distributed.all_reduce(value)
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        os.write(1, f"attempt {attempt} rank {world.rank} sum {value.item()}\\n".encode())
        if attempt == "0":
            os._exit(3) if world.rank == 1 else torch.distributed.barrier()

run_and_exit(main)
"""


@pytest.mark.slow
def test_torchrun_starts_ranks_again(tmp_path: Path) -> None:
    """Without a secret in the environment; its own store gives away where ours is, and nothing else."""
    script = tmp_path / "rank.py"
    script.write_text(RESTARTS)
    environment = {name: value for name, value in os.environ.items() if name != "PRETRAIN_SECRET"}
    environment |= {"XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "--max-restarts=1", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("attempt"))
    assert said == [f"attempt {attempt} rank {rank} sum 2.0" for attempt in (0, 1) for rank in (0, 1)]
    assert (tmp_path / "pretrain" / "secret").stat().st_size == 64
