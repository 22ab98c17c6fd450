"""Runs that are started, followed, killed and resumed, over `resume_server`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fused_adam
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pretrain.proofs.compare import last_step

SERVER = Path(__file__).with_name("resume_server.py")
TIMEOUT = 120.0


class Server:
    """Forks ranks; a context manager that takes them along when it ends.

    `library`: whose FusedAdam they find (`fused_adam`); None: the machine's.
    """

    def __init__(self, library: str | None = None) -> None:
        found = [fused_adam.__file__, library] if library else []
        self._process = subprocess.Popen(
            [sys.executable, *found, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Life:
    """The ranks of one start of a run."""

    server: Server
    run: Path
    pids: list[int]
    log: Path
    store: Any
    codes: dict[int, int] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether every rank has ended."""
        for pid in self.pids:
            if pid not in self.codes:
                code = self.server.ask(poll=pid)["code"]
                if code is not None:
                    self.codes[pid] = code
        return len(self.codes) == len(self.pids)

    def wait(self) -> list[int]:
        """Exit codes by rank."""
        deadline = time.monotonic() + TIMEOUT
        while not self.ended:
            assert time.monotonic() < deadline, f"{self.run} does not end:\n{self.said()}"
            time.sleep(0.005)
        return [self.codes[pid] for pid in self.pids]

    def until(self, due: Callable[[], bool]) -> None:
        """Wait until something is due, or the run has ended."""
        deadline = time.monotonic() + TIMEOUT
        while not due() and not self.ended:
            assert time.monotonic() < deadline, f"{self.run} does not go on:\n{self.said()}"
            time.sleep(0.001)

    def signal(self, number: int, rank: int | None = None) -> None:
        """To all ranks, or to one."""
        for pid in self.pids if rank is None else [self.pids[rank]]:
            if pid not in self.codes:
                os.kill(pid, number)

    def kill(self) -> bool:
        """`kill -9` of all ranks; whether it hit them all alive."""
        self.signal(signal.SIGSTOP)  # a rank that is stopped does not see that another one is gone
        self.signal(signal.SIGKILL)
        codes = self.wait()
        assert set(codes) <= {0, -signal.SIGKILL}, f"ended with {codes}:\n{self.said()}"
        return codes == [-signal.SIGKILL] * len(self.pids)

    def said(self) -> str:
        return self.log.read_text()[-4000:] if self.log.exists() else ""


@dataclass(frozen=True)
class Runs:
    """Starts runs of one config."""

    server: Server
    config: Path
    folder: Path

    def start(
        self,
        run: Path,
        processes: int,
        overrides: list[str],
        record: Path | None = None,
        mutation: str | None = None,
    ) -> Life:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        log = self.folder / f"{run.name}.log"
        argv = ["train", str(self.config), f"run.dir={run}", *overrides]
        pids = []
        for rank in range(processes):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            answer = self.server.ask(
                argv=argv,
                environment=environment,
                log=str(log),
                record=None if record is None else f"{record}-{rank}",
                mutation=mutation,
            )
            pids.append(answer["pid"])
        return Life(self.server, run, pids, log, store)

    def finish(self, run: Path, processes: int, overrides: list[str], **more: Any) -> None:
        """Run to the end."""
        life = self.start(run, processes, overrides, **more)
        assert life.wait() == [0] * processes, life.said()


def kill_in_step(life: Life, draw: random.Random) -> bool:
    """Kill all ranks at a random moment of one of the next steps; whether that hit them."""
    target = last_step(life.run) + draw.randint(1, 5)
    life.until(lambda: last_step(life.run) >= target)
    time.sleep(draw.random() * 0.02)
    return life.kill()


def kill_in_start(life: Life, draw: random.Random) -> bool:
    """Kill all ranks while they start."""
    time.sleep(draw.random() * 0.25)
    return life.kill()


def kill_in_save(life: Life, draw: random.Random) -> bool:
    """Kill all ranks while a checkpoint is being written, or just after."""
    target = last_step(life.run) + draw.randint(1, 3)
    life.until(lambda: last_step(life.run) >= target)
    life.until(lambda: any((life.run / "checkpoints").glob(".tmp-*")))
    time.sleep(draw.choice((0.0, 0.01)) * draw.random())
    return life.kill()
