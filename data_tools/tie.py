"""Ties a process to its parent: when the parent ends, whatever ends it, the kernel kills this one (Linux).

    python -I -S data_tools/tie.py PARENT PROGRAM ARGUMENT...

It ties itself, then becomes that program; `data_tools.children` starts programs so. A hook between fork and
exec (`preexec_fn`) would do the same, but runs Python where another thread may have held a lock. This file
imports as little as it can, since every child waits for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2). The setting survives exec but is not inherited by children: each child ties itself."""


def tie_to(parent: int) -> None:
    """End with the parent from now on; at once if it has ended already.

    Args:
        parent: process id of the parent when it started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above took effect
            os._exit(128 + signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become a program."""
    # Python ignores these signals, and exec would pass that on to the program
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    tie_to(int(arguments[0]))
    try:
        os.execv(arguments[1], arguments[1:])
    except OSError as error:
        sys.exit(f"{arguments[1]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
