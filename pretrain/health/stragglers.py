"""Ranks that are slower than the others for a long time: everybody waits for them at every step.

A rank's own time in a step is compared: waiting for data, and forward and backward up to where the gradients
of all ranks are reduced. Ranks of one tensor, context or pipeline group wait for each other in between, so a
slow rank among them slows its whole group.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

RATIO = 1.3
"""A straggler takes at least this many times the median rank's time."""
WINDOW = 50
"""Steps over which a rank's time is averaged."""

log = logging.getLogger(__name__)


class Stragglers:
    """Own times of all ranks over the last steps.

    Args:
        name: returns the name of a rank, with its host.
    """

    def __init__(self, size: int, name: Callable[[int], str]) -> None:
        self._name = name
        self._times = np.zeros((WINDOW, size))
        self._steps = 0
        self._told: set[int] = set()

    def add(self, seconds: Sequence[float]) -> float | None:
        """Record one step.

        Args:
            seconds: own time of every rank, in order.

        Returns:
            The slowest rank's mean over the last steps, as a multiple of the median rank's; None if
            there is nothing to compare.
        """
        self._times[self._steps % WINDOW] = seconds
        self._steps += 1
        means = self._times[: self._steps].mean(axis=0)
        usual = float(np.median(means))
        if len(means) < 2 or usual <= 0:
            return None
        if self._steps >= WINDOW:
            self._tell(means, usual)
        return float(means.max()) / usual

    def _tell(self, means: "np.ndarray[tuple[int], np.dtype[np.float64]]", usual: float) -> None:
        slow = {int(rank) for rank in np.flatnonzero(means >= RATIO * usual)}
        for rank in sorted(slow - self._told):
            log.warning(
                "straggler: %s takes %.2f times as long as the median rank over the last %d steps (%.3g s of "
                "its own a step, the median is %.3g s); all others wait for it",
                self._name(rank),
                means[rank] / usual,
                WINDOW,
                means[rank],
                usual,
            )
        for rank in sorted(self._told - slow):
            log.info("%s keeps up with the others again", self._name(rank))
        self._told = slow
