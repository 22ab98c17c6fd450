"""Signals that a command forwards to the child processes that do its work.

Whoever asks the parent to stop, asks the children: a training child saves its checkpoint, as if it had
received the signal itself, and the parent waits for it. What cannot be forwarded (SIGKILL) ends the children
at once (`data_tools.children`).
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from data_tools import children
from data_tools.children import Child
from pretrain.run.signals import HANDLED, signal_name


class Relay:
    """Context manager, for the main thread. While it is active, signals go to its children."""

    def __init__(self) -> None:
        self.number = 0
        """The last signal that came, 0 if none did."""
        self._came = 0
        self._taken = True
        self._told: dict[Child, int] = {}
        """Number of signals that had come when each child was last signalled."""
        self._previous: dict[int, Any] = {}

    def start(self, command: Sequence[str], **options: Any) -> Child:
        """Start a child, in a session of its own: a terminal's ctrl-C reaches it only through this process.

        It immediately gets a signal that came before it started.

        Raises:
            OSError: there is no such program, or no process can be created.
        """
        child = children.start(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self._told[child] = 0
        if self._told[child] < self._came:  # a signal that comes at this moment is not forwarded twice
            self._tell(child)
        return child

    def send(self, number: int) -> None:
        """Forward a signal, also to children that start later."""
        self.number, self._taken = number, False
        self._came += 1
        for child in self._told:
            self._tell(child)

    def _tell(self, child: Child) -> None:
        self._told[child] = self._came
        if child.poll() is None:
            child.send_signal(self.number)
            self._taken = True

    @property
    def why(self) -> str:
        """The beginning of a message about a child that has ended."""
        return f"stopped by {signal_name(self.number)}: " if self.number else ""

    def code(self, child: Child) -> int:
        """This process's exit code once a child has ended.

        After a signal it is never 0, even if that child finished: not all of the work was done.
        """
        if child.returncode > 0:
            return int(child.returncode)
        number = self.number or -child.returncode
        return 128 + number if number else 0

    def __enter__(self) -> "Relay":
        for number in HANDLED:
            self._previous[number] = signal.signal(number, lambda got, _frame: self.send(got))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if not self._taken:  # no child received it in time
            os.kill(os.getpid(), self.number)
