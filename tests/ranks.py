"""Run a worker script as real ranks (gloo), as `pretrain train --processes N` does, or a command."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import warm_ranks

from pretrain.run.exit import run_and_exit

SPAWN = (
    "import sys; from pretrain.distributed.spawn import spawn; "
    "sys.exit(spawn(sys.argv[2:], int(sys.argv[1])))"
)
TRAINERS = tuple(f"pretrain.{kind}.trainer" for kind in ("gpt", "bert", "rnn", "cnn", "gan"))


def run_ranks(
    worker: Path, processes: int, argument: Any, timeout: float = 1200, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run `python worker JSON` as `processes` ranks; output is captured, whatever the exit code.

    They are forks of a process that has imported what they need (`warm_ranks`), or, behind another command
    `before` it, new processes.
    """
    if before:
        rank = [sys.executable, __file__, str(worker), json.dumps(argument)]
        command = [*before, sys.executable, "-c", SPAWN, str(processes), *rank]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return _warm().run(timeout, ranks=processes, worker=str(worker), argument=argument)


def run_pretrain(
    *arguments: object, cwd: Path | None = None, timeout: float = 1200, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `pretrain` as a command of its own; output is captured, whatever the exit code."""
    words = [str(argument) for argument in arguments]
    return _warm().run(timeout, cwd=cwd, input=input, command=words)


class _Warm:
    """The process that forks ranks, until the end of this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, warm_ranks.__file__, *TRAINERS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        atexit.register(self._process.communicate)  # closes its standard input, by which it ends

    def run(
        self, timeout: float, cwd: Path | None = None, input: str = "", **asked: Any
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("input", "output", "errors")]
            files[0].write_text(input)
            asked |= {"environment": dict(os.environ), "folder": str(cwd or Path.cwd())}
            asked["files"] = list(map(str, files))
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asked) + "\n")
            pid = self._answer(timeout)["pid"]
            try:
                code = self._answer(timeout)["code"]
            except subprocess.TimeoutExpired:
                os.kill(pid, signal.SIGKILL)  # its ranks are tied to it
                self._answer(timeout)
                raise
            said = [path.read_text(errors="replace") for path in files[1:]]
            return subprocess.CompletedProcess(asked.get("command", []), code, *said)

    def _answer(self, timeout: float) -> Any:
        answers = self._process.stdout
        assert answers is not None
        if not select.select([answers], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(warm_ranks.__file__, timeout)
        line = answers.readline()
        assert line, "the process that forks ranks has ended"
        return json.loads(line)


@cache
def _warm() -> _Warm:
    return _Warm()


def main() -> None:
    """One rank: the worker as the program of this process."""
    warm_ranks.run_worker(sys.argv[1:])


if __name__ == "__main__":
    run_and_exit(main)
