"""The gate that every rank passes in every step, between its data and its arithmetic.

Here all ranks agree on signals: nobody computes a step that another rank will not compute, so what was
done before is whole and can be saved. The same message carries each rank's own time in the last step.
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
    """A signal came to some rank; raised on all ranks together, before anything of a step is changed."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class StepSync:
    """What a trainer tells of where it is, and asks before it goes on.

    Args:
        world: all its ranks pass together.
        pulse: takes the marks.
        pending: the signal that this rank got, 0 if none.
    """

    def __init__(
        self, world: DistContext, pulse: PhaseTimer | None = None, pending: Callable[[], int] = lambda: 0
    ) -> None:
        self._world = world
        self._pulse = pulse or PhaseTimer()
        self._pending = pending
        self._data = DataThread()
        self.own_seconds: list[float] = []
        """Own time of every rank between its last two passes."""
        self.passed = 0
        """How often this rank has passed."""

    def fetch(self, load: Callable[[], T]) -> T:
        """Wait for the data of a step, and go on together.

        Args:
            load: reads them; called in another thread, so that a signal ends the wait.

        Raises:
            Interrupted: a signal came to some rank.
        """
        self._pulse.mark(Phase.DATA)
        batches = self._data.read(load, self._pending)
        self._pulse.mark(Phase.AGREEMENT)
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
        """This rank's gradients are there, and what follows waits for other ranks."""
        if self._world.device.type == "cuda":
            # Else the host would be ahead of its GPU, and wait for it where it seems to wait for others.
            torch.cuda.current_stream().synchronize()
        self._pulse.mark(Phase.REDUCTION)

    def mark(self, phase: Phase) -> None:
        self._pulse.mark(phase)

    def validated(self, count: int) -> None:
        """So many parts of the validation are done.

        Raises Interrupted: a signal came to some rank; the validation is given up.
        """
        self._pulse.mark(Phase.VALIDATION, part=self._pulse.now.part + count)
        signal = largest(self._world, self._pending())
        if signal:
            raise Interrupted(signal)
