"""The step sync: where all ranks meet in every step, between reading the data and computing.

Here the ranks agree on signals. No rank computes a step that another rank will not compute, so everything
done before is complete and can be saved. The same message carries each rank's own time in the last step.
"""

import time
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
        self._compute: _GpuCompute | None = None

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
        own[self._world.rank] = round((self._pulse.lap() + self._behind()) * 1e9)
        signal, *everyone = all_reduce_max(self._world, [self._pending(), *own])
        self.own_seconds = [nanoseconds / 1e9 for nanoseconds in everyone]
        if signal or batches is None:
            raise Interrupted(signal)
        self._pulse.mark(Phase.COMPUTE)
        if self._world.on_gpu:
            self._compute = _GpuCompute()
        self.passed += 1
        return batches

    def reduce(self) -> None:
        """Mark that this rank's gradients are complete and that it now waits for other ranks.

        The host runs ahead of its GPU. Waiting for the GPU must not be counted as waiting for other ranks, so
        the phase begins when the GPU gets there.
        """
        if self._compute is not None:
            self._compute.end()
        self._pulse.mark(Phase.REDUCTION, reached=self._compute and self._compute.ended)

    def _behind(self) -> float:
        """Seconds that the GPU took longer to compute than the host to ask for it. The step is over."""
        compute, self._compute = self._compute, None
        return compute.behind() if compute else 0.0

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


class _GpuCompute:
    """The GPU's forward and backward passes of a step, timed without waiting for them."""

    def __init__(self) -> None:
        self._began, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._began.record()
        self._host_began = time.monotonic()
        self._host_seconds: float | None = None

    def end(self) -> None:
        self._ended.record()
        self._host_seconds = time.monotonic() - self._host_began

    def ended(self) -> bool:
        return bool(self._ended.query())

    def behind(self) -> float:
        """Seconds that the host took less; 0 if `end` was not called, as by GANs."""
        if self._host_seconds is None or not self.ended():
            return 0.0
        return max(0.0, self._began.elapsed_time(self._ended) / 1000 - self._host_seconds)
