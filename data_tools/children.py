"""Starts programs that end with the process that started them, however it ends.

Each is tied to its parent by the kernel (`tie.py`), so no code has to run in either when the parent ends.
This covers SIGKILL, children that hang, and all descendants. `pool.py` ties its workers in the same way.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Child: TypeAlias = "subprocess.Popen[Any]"
TIE = Path(__file__).with_name("tie.py")


def start(command: Sequence[str], **options: Any) -> Child:
    """`subprocess.Popen` of a program that ends with this process.

    The kernel ties it to the *thread* that starts it, so only the main thread may.

    Raises:
        OSError: there is no such program, or no process can be created.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{command[0]} would end with the thread {threading.current_thread().name}")
    return subprocess.Popen(_tied(command, options.get("env")), **options)


def run(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` of a program that ends with this process. It waits for the program, so any thread may
    call it.

    Raises:
        OSError: there is no such program, or no process can be created.
        subprocess.SubprocessError: it took longer than `timeout`, or failed with `check`.
    """
    try:
        return subprocess.run(
            _tied(command, options.get("env")), check=options.pop("check", False), **options
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        error.cmd = list(command)  # so that messages show the program and not tie.py
        raise


def start_to_outlive(command: Sequence[str], **options: Any) -> Child:
    """`subprocess.Popen` of a program that goes on when this process ends.

    Few programs should: such a program must notice by itself when it is no longer needed, or there must be a
    command that ends it.

    Raises:
        OSError: there is no such program, or no process can be created.
    """
    return subprocess.Popen(list(command), start_new_session=True, **options)


def _tied(command: Sequence[str], environment: Mapping[str, str] | None) -> list[str]:
    """The command line that ties itself to this process and then becomes `command`."""
    path = (os.environ if environment is None else environment).get("PATH", os.defpath)
    program = shutil.which(command[0], path=path)
    if program is None:
        raise FileNotFoundError(2, "No such program", command[0])
    return [sys.executable, "-I", "-S", str(TIE), str(os.getpid()), program, *command[1:]]
