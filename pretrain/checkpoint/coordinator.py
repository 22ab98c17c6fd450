"""How the ranks of a save exchange what they need, what they wrote and what was decided.

Saves run in a background thread while training uses the process groups, so a save must not use collectives. A
few small messages through a key-value store are enough, and waiting on the store does not hold Python's GIL.
"""

import threading
import time
from datetime import timedelta
from typing import Any, Protocol

from data_tools.names import storable
from pretrain.errors import UserError


class CoordinationError(UserError):
    """Another rank did not answer in time, or the store is gone."""


class Coordinator(Protocol):
    """A key-value store that every rank reaches, from any thread."""

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str, timeout: float) -> bytes:
        """Wait up to `timeout` seconds for a key, and return its value; CoordinationError if it is not
        set."""

    def delete(self, key: str) -> None: ...


class LocalCoordinator:
    """For a single process: several threads, or one rank alone."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def put(self, key: str, value: bytes) -> None:
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, timeout: float) -> bytes:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, timeout):
                raise CoordinationError(f"no rank set {key} within {timeout:g} s")
            return self._values[key]

    def delete(self, key: str) -> None:
        with self._changed:
            self._values.pop(key, None)


class StoreCoordinator:
    """Over a `torch.distributed.Store`, through a connection of its own.

    A store connection blocks all its threads while one of them waits for a key, so saves must not share the
    connection that process groups use. They may share one among themselves: a rank has one save in progress
    at a time.
    """

    def __init__(self, store: Any, prefix: str = "checkpoint") -> None:
        """Connect to a `torch.distributed.Store` that all ranks share.

        Args:
            store: is cloned. Typed loosely because torch's own stubs lack `clone`.
            prefix: separates this coordinator's keys from other keys in the store.
        """
        self._store = store.clone()
        self._prefix = prefix

    def put(self, key: str, value: bytes) -> None:
        try:
            self._store.set(self._name(key), value)
        except RuntimeError as error:
            raise CoordinationError(f"cannot set {key}: {_first_line(error)}") from error

    def get(self, key: str, timeout: float) -> bytes:
        started = time.monotonic()
        try:
            self._store.wait([self._name(key)], timedelta(seconds=timeout))
            return bytes(self._store.get(self._name(key)))
        except RuntimeError as error:
            if time.monotonic() - started >= 0.9 * timeout:
                raise CoordinationError(f"no rank set {key} within {timeout:g} s") from error
            raise CoordinationError(f"waiting for {key} failed: {_first_line(error)}") from error

    def delete(self, key: str) -> None:
        try:
            self._store.delete_key(self._name(key))
        except RuntimeError as error:
            raise CoordinationError(f"cannot delete {key}: {_first_line(error)}") from error

    def _name(self, key: str) -> str:
        """The key as stored: the store takes only UTF-8, but keys contain folder names, which may be
        anything."""
        return storable(f"{self._prefix}/{key}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
