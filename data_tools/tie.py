"""Ties a process to its parent: when the parent ends, whatever ends it, the kernel kills this one (Linux).

    python -I -S data_tools/tie.py PARENT PROGRAM ARGUMENT...

ties itself, then becomes that program; `data_tools.children` starts programs so. A hook between fork and exec
(`preexec_fn`) would do the same, but runs Python where another thread may have held a lock. This file imports
as little as it can, since every child waits for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2). What it sets lasts through exec, and is not inherited: each child ties itself."""


def tie_to(parent: int) -> None:
    """End with the parent from now on; at once, where it has ended already.

    Args:
        parent: process id that it had when it started this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(128 + signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become a program."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    tie_to(int(arguments[0]))
    try:
        os.execv(arguments[1], arguments[1:])
    except OSError as error:
        sys.exit(f"{arguments[1]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
