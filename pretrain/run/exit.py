"""The end of a process whose work is done.

Python's finalization takes the interpreter away while torch's threads still run. One that lets go of a tensor
in that moment (gloo's do, a little after the collective is over) is ended inside of code that must not be
ended, and the process aborts: `terminate called without an active exception`, exit code 134 for a run that
has finished (pytorch/pytorch#179291). So a process ends here: what finalization does for users is done, and
the kernel does the rest.
"""

import atexit
import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from pretrain.errors import INTERRUPTED, named
from pretrain.redact import redact


class _Output(io.TextIOWrapper):
    """Standard output, whose errors have its name."""

    def write(self, text: str) -> int:
        with named(self.name):
            return super().write(text)

    def flush(self) -> None:
        with named(self.name):
            super().flush()


def run_and_exit(main: Callable[[], object]) -> NoReturn:
    """Call `main` as all that this process does, then end as the interpreter would, but for its finalization.

    Threads that are not daemons are waited for, what is registered with `atexit` is called, and output is
    written. The exit code is that of `SystemExit`, or 0; 130 after Ctrl-C; 1 with a traceback after any other
    exception, and 1 with a message where the output cannot be written.
    """
    code = left = 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        out = sys.stdout
        sys.stdout = _Output(
            out.buffer,
            out.encoding,
            out.errors,
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )
    try:
        code = _call(main)
        for end in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
            with suppress(KeyboardInterrupt):  # as the interpreter does: the work is done
                end()
        left = _flush()
    finally:
        os._exit(code or left)


def print_error(message: str) -> None:
    """Write a line without secrets to standard error, after what went to standard output; where they can be
    written."""
    with suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
    message = redact(message)
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(message, file=sys.stderr, flush=True)


def _call(main: Callable[[], object]) -> int:
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print_error(str(end.code))
        return 1
    except KeyboardInterrupt:
        print_error("pretrain: error: interrupted")
        return INTERRUPTED
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _flush() -> int:
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BrokenPipeError:
            code = 1  # nobody reads: `pretrain ... | head`
        except OSError as error:
            code = 1
            print_error(f"pretrain: error: {stream.name}: {error.strerror}")
    return code
