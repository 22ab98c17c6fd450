"""Contenders of a training benchmark: each in processes of its own, one contender working at a time.

So none runs under what another one patches. A contender of several processes takes as long as its slowest.
"""

import math
import multiprocessing
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from measure import ratio, spread, take_turns, timed

THREADS, WARM_UP = 2, 3
"""Threads of a contender, all its processes together, and steps before the first turn."""

Step = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Seat:
    """Where a process stands among those of its contender."""

    rank: int
    size: int
    port: int


@dataclass(frozen=True)
class Contender:
    """Who trains.

    Attributes:
        make_step: makes the step, of a seat, `arguments`, and a stack for what must be left at the end.
        arguments: can be pickled.
        processes: how many share `THREADS`.
    """

    make_step: Callable[..., Step]
    arguments: tuple[Any, ...]
    processes: int = 1


@dataclass
class _Running:
    """The processes of a contender, and a pipe to each."""

    processes: list[Any] = field(default_factory=list)
    pipes: list[Connection] = field(default_factory=list)

    def turn(self, steps: int) -> float:
        """Seconds a step."""
        for pipe in self.pipes:
            pipe.send(steps)
        seconds = max(float(pipe.recv()) for pipe in self.pipes)
        assert math.isfinite(seconds)
        return seconds


def race(
    contenders: Mapping[str, Contender], rounds: int, steps: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round, the median of `steps`.

    With `time.process_time` as the clock each process has one thread: threads that wait for one another burn
    time too.
    """
    running = {name: _start(contender, clock) for name, contender in contenders.items()}
    turns = {name: lambda each=each: each.turn(steps) for name, each in running.items()}
    found = take_turns(turns, rounds)  # type: ignore[arg-type]
    for each in running.values():
        for pipe in each.pipes:
            pipe.send(0)
        for process in each.processes:
            process.join()
    return found


def _start(contender: Contender, clock: Clock) -> _Running:
    context = multiprocessing.get_context("spawn")
    port, running = _free_port(), _Running()
    for rank in range(contender.processes):
        ours, theirs = context.Pipe()
        seat = Seat(rank, contender.processes, port)
        process = context.Process(target=_serve, args=(theirs, seat, contender, clock), daemon=True)
        process.start()
        theirs.close()
        running.processes.append(process)
        running.pipes.append(ours)
    for pipe in running.pipes:
        pipe.recv()
    return running


def _serve(connection: Connection, seat: Seat, contender: Contender, clock: Clock) -> None:
    """A process: the number of steps in, seconds a step out, until a zero."""
    torch.set_num_threads(THREADS // seat.size if clock is time.perf_counter else 1)
    torch.manual_seed(0)
    with ExitStack() as stack:
        step = contender.make_step(seat, *contender.arguments, stack)
        for _ in range(WARM_UP):
            step()
        connection.send(None)
        while steps := connection.recv():
            connection.send(median(timed(step, clock) for _ in range(steps)))


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def rows_of(
    found: Mapping[str, Sequence[float]], tokens: int, head: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Lines of a table, each beginning with `head`: contender, tokens/s, milliseconds, and how ours compares.

    Args:
        found: seconds a step; ours come first.
        tokens: of a step.
        head: what the lines begin with.
    """
    ours = next(iter(found.values()))
    return [
        (
            *head,
            contender,
            spread([tokens / each for each in seconds], ",.0f"),
            f"{median(seconds) * 1e3:.1f}",
            f"{ratio(seconds, ours):.3f}",
        )
        for contender, seconds in found.items()
    ]
