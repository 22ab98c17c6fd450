"""The end of a process whose work is done.

Python's finalization takes the interpreter away while torch's threads still run. One that lets go of a tensor
in that moment (gloo's do, a little after the collective is over) is ended inside of code that must not be
ended, and the process aborts: `terminate called without an active exception`, exit code 134 for a run that
has finished (pytorch/pytorch#179291). So a process ends here: what finalization does for users is done, and
the kernel does the rest.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def leave_after(main: Callable[[], object]) -> NoReturn:
    """Call `main` as all that this process does, then end as the interpreter would, but for its finalization.

    Threads that are not daemons are waited for, what is registered with `atexit` is called, and output is
    written. The exit code is that of `SystemExit`, or 0; 1 with a traceback after any other exception, and
    1 with a message where the output cannot be written.
    """
    code = _call(main)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(_flush() or code)


def _call(main: Callable[[], object]) -> int:
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _flush() -> int:
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = 1  # nobody reads: `pretrain ... | head`
        except OSError as error:
            print(f"pretrain: error: {stream.name}: {error.strerror}", file=sys.stderr)
            code = 1
    return code
