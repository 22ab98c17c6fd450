"""Starts ranks in milliseconds: a process that has everything imported and forks `pretrain` commands.

A fork runs `pretrain.cli.main` as the installed command does, in its own process with its own environment,
so that it can be killed. One JSON object a line comes in on stdin, one goes out on stdout:
{"argv": [...], "environment": {...}, "log": path, "record": path?, "mutation": name?} -> {"pid": N}
{"poll": pid} or {"wait": pid} -> {"code": N or null}
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest import mock

import hang_faults
import torch

import pretrain.cli
import pretrain.commands.train
from pretrain.bert.data.text import BertTrainingData
from pretrain.gpt.data import TrainingData
from pretrain.megatron.optimizer import Optimizer

PR_SET_PDEATHSIG = 1


def recording(path: str | None) -> Any:
    """Append (step, micro-batch, data rank, data size, sample ids, digests of tokens) of every batch; the
    tokens of a BERT are masked already."""
    if path is None:
        return nullcontext()
    stack = ExitStack()
    for data in (TrainingData, BertTrainingData):
        stack.enter_context(mock.patch.object(data, "batch", _recorded(data.batch, path)))
    return stack


def _recorded(honest: Callable[..., Any], path: str) -> Callable[..., Any]:
    def recorded(data: Any, step: int, micro_batch: int, rank: int, size: int, jumped: int = 0) -> Any:
        batch = honest(data, step, micro_batch, rank, size, jumped)
        digests = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in batch.tokens]
        line = json.dumps([step, micro_batch, rank, size, batch.sample_ids, digests])
        with open(path, "a") as file:
            file.write(line + "\n")
        return batch

    return recorded


def _restoring(restore: Callable[[Optimizer, int], None]) -> Any:
    honest: Any = Optimizer.updates
    return mock.patch.object(Optimizer, "updates", property(honest.fget, restore))


def one_step_tensor() -> Any:
    """A resume gives all parameters one shared `step` tensor, as megatron's own load does."""

    def restore(optimizer: Optimizer, value: int) -> None:
        shared = torch.full((), float(value))
        for state in optimizer._inner.state.values():
            state["step"] = shared

    return _restoring(restore)


def step_not_restored() -> Any:
    """A resume leaves Adam's step count at 0."""
    return _restoring(lambda optimizer, value: None)


MUTATIONS = {
    **{function.__name__: function for function in (one_step_tensor, step_not_restored)},
    **hang_faults.FAULTS,
}


def run(asked: dict[str, Any]) -> int:
    """The command, in the fork; its exit code."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(asked["environment"])
    sys.argv = ["pretrain", *asked["argv"]]
    with ExitStack() as stack:
        stack.enter_context(recording(asked["record"]))
        stack.enter_context(MUTATIONS.get(asked["mutation"], nullcontext)())
        try:
            pretrain.cli.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def fork(asked: dict[str, Any]) -> int:
    """Start the command; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = run(asked)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def code_of(pid: int, flags: int) -> int | None:
    """Exit code, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, flags)
    return os.waitstatus_to_exitcode(status) if found else None


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "argv" in asked:
            answer = {"pid": fork(asked)}
        elif "poll" in asked:
            answer = {"code": code_of(asked["poll"], os.WNOHANG)}
        else:
            answer = {"code": code_of(asked["wait"], 0)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
