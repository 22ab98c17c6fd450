"""The step sync: where all ranks meet in every step, between reading the data and computing.

Here the ranks agree on signals. No rank computes a step that another rank will not compute, so everything
done before is complete and can be saved. The same message carries each rank's own time in the last step.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from pretrain.data.wait import DataThread
from pretrain.distributed.collectives import all_reduce_max, largest
from pretrain.distributed.world import DistContext
from pretrain.health.phase_timer import Phase, PhaseTimer

T = TypeVar("T")


class Interrupted(Exception):
    """Some rank received a signal. Raised on all ranks together, before anything of a step is changed."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class StepSync:
    """What a trainer reports its position to, and asks before it continues.

    Args:
        world: all its ranks pass together.
        pulse: takes the marks.
        pending: returns the signal that this rank received, 0 if none.
    """

    def __init__(
        self, world: DistContext, pulse: PhaseTimer | None = None, pending: Callable[[], int] = lambda: 0
    ) -> None:
        self._world = world
        self._pulse = pulse or PhaseTimer()
        self._pending = pending
        self._data = DataThread()
        self.own_seconds: list[float] = []
        """For every rank, the time that it spent by itself between its last two passes."""
        self.passed = 0
        """How often this rank has passed."""

    def fetch(self, load: Callable[[], T]) -> T:
        """Wait for the data of a step, then continue on all ranks together.

        Args:
            load: reads the data; called in another thread, so that a signal ends the wait.

        Raises:
            Interrupted: some rank received a signal.
        """
        self._pulse.mark(Phase.DATA)
        batches = self._data.read(load, self._pending)
        self._pulse.mark(Phase.AGREEMENT)
        # Each rank fills its own slot, so one all-reduce of maxima gathers all times along with the signal.
        own = [0] * self._world.size
        own[self._world.rank] = round(self._pulse.lap() * 1e9)
        signal, *everyone = all_reduce_max(self._world, [self._pending(), *own])
        self.own_seconds = [nanoseconds / 1e9 for nanoseconds in everyone]
        if signal or batches is None:
            raise Interrupted(signal)
        self._pulse.mark(Phase.COMPUTE)
        self.passed += 1
        return batches

    def reduce(self) -> None:
        """Mark that this rank's gradients are complete and that it now waits for other ranks."""
        if self._world.device.type == "cuda":
            # Without this the host runs ahead of its GPU, and waiting for the GPU would be counted as
            # waiting for other ranks.
            torch.cuda.current_stream().synchronize()
        self._pulse.mark(Phase.REDUCTION)

    def mark(self, phase: Phase) -> None:
        self._pulse.mark(phase)

    def validated(self, count: int) -> None:
        """Report that `count` more parts of the validation are done.

        Raises Interrupted if some rank received a signal; the validation is abandoned.
        """
        self._pulse.mark(Phase.VALIDATION, part=self._pulse.now.part + count)
        signal = largest(self._world, self._pending())
        if signal:
            raise Interrupted(signal)
