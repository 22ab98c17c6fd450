"""Signals that ask a run to save and stop.

SIGTERM (a scheduler's warning), SIGUSR1 (`sbatch --signal`) and SIGINT (ctrl-C) set a flag, which the
training loop reads between steps; all ranks agree on it before they act. A second ctrl-C does not wait for a
checkpoint.
"""

import signal
from types import FrameType, TracebackType

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Signals:
    """Context manager that catches signals in the main thread and puts the old handlers back."""

    def __init__(self) -> None:
        self._pending = 0
        self._previous: dict[int, signal._HANDLER] = {}

    def pending(self) -> int:
        """Number of the last signal that asked for a stop, 0 if none did."""
        return self._pending

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._pending == signal.SIGINT:
            raise KeyboardInterrupt
        self._pending = number

    def __enter__(self) -> "Signals":
        self._previous = {number: signal.signal(number, self._handle) for number in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """SIGTERM, SIGUSR1 and so on."""
    return signal.Signals(number).name
