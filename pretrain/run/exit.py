"""The end of a process whose work is done.

Python's finalization destroys the interpreter while torch's threads still run. A thread that frees a tensor
at that moment (gloo's do, a little after the collective is over) is killed inside code that must not be
interrupted, and the process aborts: `terminate called without an active exception`, exit code 134 for a run
that has finished (pytorch/pytorch#179291). So a process ends here: this file does the part of finalization
that matters to users, and the kernel does the rest.
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
    """Standard output, whose errors include its name."""

    def write(self, text: str) -> int:
        with named(self.name):
            return super().write(text)

    def flush(self) -> None:
        with named(self.name):
            super().flush()


def run_and_exit(main: Callable[[], object]) -> NoReturn:
    """Call `main` as all that this process does, then end as the interpreter would, but without its
    finalization.

    Non-daemon threads are joined, `atexit` functions are called, and output is flushed. The exit code is that
    of `SystemExit`, or 0; 130 after Ctrl-C; 1 with a traceback after any other exception, and 1 with a
    message if the output cannot be written.
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
            with suppress(KeyboardInterrupt):  # ignored, as by the interpreter: the work is done
                end()
        left = _flush()
    finally:
        os._exit(code or left)


def print_error(message: str) -> None:
    """Print a line without secrets to standard error, after everything on standard output; ignored if neither
    can be written."""
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
            code = 1  # the reader is gone: `pretrain ... | head`
        except OSError as error:
            code = 1
            print_error(f"pretrain: error: {stream.name}: {error.strerror}")
    return code
