"""Starts commands and ranks in milliseconds: a process that has imported what trainers need, and forks them.

What a rank imports takes longer than most of what tests ask of it. Ranks are started as `pretrain train
--processes N` does, by the product's own `spawn`, but where a user's rank is a new Python, a fork of this
process runs the worker. One JSON object a line comes in on stdin, two go out on stdout:
{"ranks": N, "worker": path, "argument": any} or {"command": ["train", ...]}, with
"environment": {...}, "folder": path, "files": paths of standard input, output and error
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
from pretrain import cli
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
    files = (subprocess.DEVNULL, options["stdout"], None if errors is None else errors.fileno())
    become(options["env"], files)
    run_worker(command)


def become(environment: dict[str, str], files: Sequence[int | None]) -> None:
    """Give this process another environment and other standard files: descriptors, `DEVNULL`, or None for
    those that it has."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in enumerate(files):
        if file is not None:
            os.dup2(os.open(os.devnull, os.O_RDWR) if file == subprocess.DEVNULL else file, descriptor)


def run_worker(command: Sequence[str]) -> None:
    """The worker as the program of this process."""
    sys.argv = list(command)
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


def launch(asked: dict[str, Any]) -> None:
    """In a fork: run the command, or start the ranks and wait for them."""
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    source, output, errors = asked["files"]
    become(
        asked["environment"], (os.open(source, os.O_RDONLY), os.open(output, flags), os.open(errors, flags))
    )
    os.chdir(asked["folder"])
    if "command" in asked:
        sys.argv = ["pretrain", *asked["command"]]
        cli.main()
        return
    command = [asked["worker"], json.dumps(asked["argument"])]
    with mock.patch.object(spawning, "Relay", ForkingRelay):
        sys.exit(spawning.spawn(command, asked["ranks"]))


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
