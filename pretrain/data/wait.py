"""Waiting for data in a way that can be cancelled.

A read that hangs (a dead file server, say) cannot be interrupted. So data are read in a thread of their own,
and the main thread, which waits for it, sees a signal and can still save a checkpoint.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""How often a wait checks whether it is cancelled."""


class DataThread:
    """Runs one read after another in a daemon thread, which starts at the first."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def read(self, load: Callable[[], T], given_up: Callable[[], object]) -> T | None:
        """The result of `load`, or None if `given_up` becomes true before it is there; no read may follow
        then.

        Raises what `load` raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="data", daemon=True)
            self._thread.start()
        self._asked.put(load)
        while True:
            try:
                answer, error = self._answers.get(timeout=LOOK_SECONDS)
            except Empty:
                if given_up():
                    return None
                continue
            if error is not None:
                raise error
            found: T = answer
            return found

    def _run(self) -> None:
        while True:
            load = self._asked.get()
            try:
                self._answers.put((load(), None))
            except BaseException as error:
                self._answers.put((None, error))
