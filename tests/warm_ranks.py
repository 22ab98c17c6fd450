"""Starts ranks in milliseconds: a process that has imported what trainers need, and forks them.

What a rank imports takes longer than most of what tests ask of it. A fork does what `pretrain train
--processes N` does, with the product's own `spawn`, but for the start of each rank: a fork of this process
runs the worker, where a user's rank is a new Python. One JSON object a line comes in on stdin, one goes out
on stdout:
{"worker": path, "processes": N, "argument": any, "environment": {...}, "output": path, "errors": path}
-> {"pid": N}, then {"code": N}
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

from data_tools.children import Child
from data_tools.tie import tie_to
from pretrain.distributed import spawn as spawning
from pretrain.run.exit import run_and_exit
from pretrain.run.relay import Relay
from pretrain.run.signals import HANDLED


class Forked:
    """A child process with what `Relay` and `spawn` use of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, flags: int) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, flags)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class ForkingRelay(Relay):
    """Its children run the worker named by their command line."""

    def start(self, command: Sequence[str], **options: Any) -> Child:
        sys.stdout.flush()
        sys.stderr.flush()
        parent, pid = os.getpid(), os.fork()
        if not pid:
            run_and_exit(lambda: start_rank(parent, command, options))
        child = cast(Child, Forked(pid))
        self._told[child] = 0
        return child


def start_rank(parent: int, command: Sequence[str], options: dict[str, Any]) -> None:
    """In a fork of `parent`, which handles and blocks signals that a new program would not."""
    tie_to(parent)
    os.setsid()
    for number in HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    errors = options["stderr"]
    become(options["env"], options["stdout"], None if errors is None else errors.fileno())
    run_worker(command)


def become(environment: dict[str, str], output: int | None, errors: int | None) -> None:
    """Give this process another environment and other files for what it prints: descriptors, `DEVNULL`, or
    None for those that it has."""
    os.environ.clear()
    os.environ.update(environment)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for descriptor, target in ((1, output), (2, errors)):
        if target is not None:
            os.dup2(null if target == subprocess.DEVNULL else target, descriptor)


def run_worker(command: Sequence[str]) -> None:
    """The worker as the program of this process."""
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def launch(asked: dict[str, Any]) -> None:
    """In a fork: start the ranks and wait for them."""
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    become(asked["environment"], os.open(asked["output"], flags), os.open(asked["errors"], flags))
    command = [asked["worker"], json.dumps(asked["argument"])]
    with mock.patch.object(spawning, "Relay", ForkingRelay):
        sys.exit(spawning.spawn(command, asked["processes"]))


def main(preloaded: Sequence[str]) -> None:
    for name in preloaded:
        importlib.import_module(name)
    for line in sys.stdin:
        asked, parent, pid = json.loads(line), os.getpid(), os.fork()
        if not pid:
            tie_to(parent)
            run_and_exit(lambda asked=asked: launch(asked))
        print(json.dumps({"pid": pid}), flush=True)
        print(json.dumps({"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
