"""Processes that save checkpoints and die: real ranks over a real store, killed by a real SIGKILL.

Children come from a fork server that has torch loaded, so that one costs milliseconds.
"""

import multiprocessing
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pretrain.checkpoint import Saver, ShardedTensor, StoreCoordinator, open_checkpoint, verify
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import UserError

ROWS, COLUMNS = 64, 48


@dataclass(frozen=True)
class Plan:
    """What the ranks do."""

    run_dir: Path
    steps: tuple[int, ...]
    world_size: int = 1
    settings: Mapping[str, Any] = None  # type: ignore[assignment]  # None: the defaults
    kill_at: str | None = None
    """Event at which `kill_rank` kills itself while it saves `kill_step` (default: the last)."""
    kill_step: int | None = None
    kill_rank: int = 0
    file_limit: Mapping[int, int] = None  # type: ignore[assignment]  # rank -> RLIMIT_FSIZE in bytes


def value_of(step: int) -> torch.Tensor:
    """The weight at a step; its moments are twice that."""
    return torch.arange(ROWS * COLUMNS, dtype=torch.float32).view(ROWS, COLUMNS) + step


def pieces_of(step: int, rank: int, world_size: int) -> list[ShardedTensor]:
    """The weight split by rows, the moments by range of elements."""
    weight = value_of(step)
    rows, size = ROWS // world_size, ROWS * COLUMNS // world_size
    whole = (ROWS, COLUMNS)
    box = weight[rank * rows : (rank + 1) * rows].clone()
    flat = (rank * size, (rank + 1) * size)
    part = weight.view(-1)[slice(*flat)] * 2
    return [
        ShardedTensor("w", whole, (rank * rows, 0), (rows, COLUMNS), None, box, "weights", True),
        ShardedTensor("m", whole, (0, 0), whole, flat, part, "optimizer", True),
    ]


def assert_holds(path: Path, step: int) -> None:
    """The checkpoint verifies and holds what was saved at that step."""
    assert verify(path) == []
    checkpoint = open_checkpoint(path)
    assert checkpoint.step == step == checkpoint.state["step"]
    assert torch.equal(checkpoint.read("w"), value_of(step))
    assert torch.equal(checkpoint.read("m"), value_of(step) * 2)


def _rank(plan: Plan, rank: int, port: int, outcomes: Any) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    now = {"step": 0}
    fatal_step = plan.kill_step or plan.steps[-1]

    def on_event(name: str) -> None:
        if (rank, name, now["step"]) == (plan.kill_rank, plan.kill_at, fatal_step):
            os.kill(os.getpid(), signal.SIGKILL)

    coordinator = StoreCoordinator(TCPStore("127.0.0.1", port, is_master=False))
    settings = CheckpointConfig.model_validate(dict(plan.settings or {}))
    said: list[str] = []
    saver = Saver(
        plan.run_dir,
        settings,
        rank,
        plan.world_size,
        coordinator,
        say=said.append,
        on_event=on_event,
        timeout=30,
    )
    error = None
    try:
        for step in plan.steps:
            saver.join()
            if plan.file_limit and rank in plan.file_limit and step != plan.steps[0]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (plan.file_limit[rank], -1))
            now["step"] = step
            pieces = pieces_of(step, rank, plan.world_size)
            saver.save(step, pieces, {"step": step}, {"config.yaml": b"a: 1\n"})
        saver.close()
    except UserError as raised:
        error = str(raised)
    outcomes.put((rank, saver.last.ok if saver.last else None, error, said))


class Ranks:
    """Child processes that carry out a plan."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pretrain.checkpoint", "torch.distributed"])
        self._plan = plan
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._outcomes = context.Queue()
        self._processes: list[BaseProcess] = []
        for rank in range(plan.world_size):
            process = context.Process(target=_rank, args=(plan, rank, self._store.port, self._outcomes))
            process.start()
            self._processes.append(process)

    def wait(self) -> dict[int, tuple[bool | None, str | None, list[str]]]:
        """Wait for all ranks; outcome (last save ok, error, messages) by rank."""
        outcomes: dict[int, Any] = {}
        for _ in self._processes:
            try:
                rank, *outcome = self._outcomes.get(timeout=60)
            except Empty:
                raise AssertionError(f"ranks did not end; {sorted(outcomes)} did") from None
            outcomes[rank] = tuple(outcome)
        self.kill()
        return outcomes

    def wait_for_kill(self) -> None:
        """Wait until the rank that the plan kills is dead, then kill the others, as a launcher would."""
        victim = self._processes[self._plan.kill_rank]
        victim.join(60)
        assert victim.exitcode == -signal.SIGKILL, victim.exitcode
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all that live."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()


def run_plan(plan: Plan) -> dict[int, tuple[bool | None, str | None, list[str]]]:
    """Carry out a plan that ends by itself."""
    return Ranks(plan).wait()
