"""Runs independent tasks in worker processes that never outlive their parent.

Each worker has its own pipe and shares nothing else with the others. The kernel kills it when the parent is
gone (`tie.py`), so a build that is started again has no left-over writers to fear.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from data_tools.errors import UserError, machine_error
from data_tools.tie import tie_to

Task = TypeVar("Task")
Result = TypeVar("Result")
Report = Callable[[int], None]
REPORT_SECONDS = 0.2


def run_tasks(
    function: Callable[[Task, Report], Result], tasks: Sequence[Task], workers: int, report: Report
) -> Iterator[Result]:
    """Yield `function(task, report)` for every task, in the order in which they finish.

    `function` must be picklable if there is more than one worker. `report` is called in this process with the
    amounts that tasks report. The first error of a task stops all workers and is raised here.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield function(task, report)
        return
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    connections: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(
                target=_serve, args=(os.getpid(), theirs, function), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            connections[ours] = process
        yield from _distribute(tasks, connections, report)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
            process.join()


def _distribute(
    tasks: Sequence[Any], connections: dict[Connection, BaseProcess], report: Report
) -> Iterator[Any]:
    waiting = iter(tasks)
    busy: set[Connection] = set()
    for connection in connections:
        connection.send(next(waiting))
        busy.add(connection)
    while busy:
        for ready in wait(list(busy)):
            assert isinstance(ready, Connection)
            kind, value = _receive(ready, connections[ready])
            if kind == "report":
                report(value)
                continue
            if kind == "error":
                raise value
            busy.discard(ready)
            task = next(waiting, None)
            if task is not None:
                ready.send(task)
                busy.add(ready)
            yield value


def _receive(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        reason = f"worker process {process.pid} ended with exit code {process.exitcode}"
        hint = (
            "-9 often means out of memory: use fewer --workers"
            if process.exitcode == -9
            else "see its output above"
        )
        raise UserError(f"{reason} ({hint}); run the same command again to go on") from None
    return kind, value


def _serve(parent: int, connection: Connection, function: Callable[[Any, Report], Any]) -> None:
    """The main loop of a worker: task in, reports and result out, until the pipe closes."""
    tie_to(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which ends its workers
    try:
        while True:
            task = connection.recv()
            try:
                result = ("result", function(task, _throttled(connection)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except UserError as error:
                result = ("error", error)
            except OSError as error:
                result = ("error", UserError(machine_error(error) or str(error)))
            except Exception:
                result = ("error", RuntimeError("in a worker process:\n" + traceback.format_exc()))
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _throttled(connection: Connection) -> Report:
    pending, last = 0, time.monotonic()

    def report(amount: int) -> None:
        nonlocal pending, last
        pending += amount
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            connection.send(("report", pending))
            pending, last = 0, now

    return report
