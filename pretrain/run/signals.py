"""Signals that ask a run to save and stop.

SIGTERM (a scheduler's warning), SIGUSR1 (`sbatch --signal`) and SIGINT (ctrl-C) set a flag, which the
training loop reads between steps; all ranks agree on it before they act. A second ctrl-C does not wait for a
checkpoint.

Python runs a signal handler only when the main thread is back in Python, which may never happen while it
waits for another rank. So the number also goes through a socket (`signal.set_wakeup_fd`), which the
watchdog's thread reads.
"""

import select
import signal
import socket
from contextlib import ExitStack, suppress
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_WAKE = b"\0"


class Signals:
    """Context manager that catches signals in the main thread and restores the old handlers."""

    def __init__(self) -> None:
        self._pending = 0
        self._interrupts = 0
        self._undo = ExitStack()
        self._receiver, self._sender = socket.socketpair()

    def pending(self) -> int:
        """Number of the last signal that asked for a stop, 0 if none did."""
        return self._pending

    def note(self, number: int) -> None:
        self._pending = number

    def wait(self, seconds: float) -> None:
        """Sleep, in one thread only, until a signal comes, `wake` is called or the time is up."""
        if select.select([self._receiver], [], [], seconds)[0]:
            for number in self._receiver.recv(64):
                self._pending = number if number in HANDLED else self._pending

    def wake(self) -> None:
        with suppress(BlockingIOError):
            self._sender.send(_WAKE)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._pending = number
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts > 1:
            raise KeyboardInterrupt

    def __enter__(self) -> "Signals":
        self._sender.setblocking(False)
        previous = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, previous)
        for number in HANDLED:
            self._undo.callback(signal.signal, number, signal.signal(number, self._handle))
        # A launcher may block them until there are handlers (`spawn`, `env --block-signal`).
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._receiver.close()
        self._sender.close()


def signal_name(number: int) -> str:
    """SIGTERM, SIGUSR1 and so on."""
    return signal.Signals(number).name
