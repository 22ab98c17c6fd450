"""The watchdog: a thread of every rank that writes what its rank is doing, and ends the job if it makes no
progress.

Each rank checks itself (a phase that lasts too long) and one neighbour (no sign of life), so the work of a
rank does not grow with the world, and every rank is watched, including rank 0. A rank that finds a problem
reads all heartbeats, names the culprit (`hang.py`) and writes the verdict. All ranks see it, write the stacks
of all their threads to their logs and end, without a collective, whatever their main threads hang in.

Signals take the same route: a rank that received one leaves a note, and the others act as if they had
received it.
"""

import faulthandler
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.errors import HealthError, StoppedEarly, UserError, machine_error
from pretrain.health.hang import judge
from pretrain.health.heartbeat import Heartbeat, HeartbeatWriter, is_dead, read_heartbeat
from pretrain.health.phase_timer import Phase, PhaseTimer, patience, phase_limit
from pretrain.health.stop import StopFiles, StopReason
from pretrain.run.exit import print_error
from pretrain.run.signals import Signals, signal_name

GRACE_SECONDS = 3.0
"""How long a rank's main thread may take to notice that another rank has failed."""
LAST_SECONDS = 10.0
"""How long a rank that ends may take for its last messages; a dead disk must not block it."""
SURVEY_BEATS = 4
"""Heartbeats between the two looks at all ranks that tell living ranks from silent ones."""
FILES_PER_SECOND = 100
"""Maximum rate of heartbeats from all ranks on a shared file system; it applies beyond a hundred ranks."""
LOST_CONNECTION = ("closed by peer", "reset by peer", "broken pipe", "timed out", "connect", "nccl", "gloo")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchedJob:
    """What a watchdog has to know."""

    id: str
    """The same on all ranks, different for every job."""
    folder: Path
    """For heartbeats; shared by all ranks."""
    log: Path
    """This rank's log, to which its stacks are written."""
    rank: int
    size: int
    timeout: float | None
    """`health.hang_timeout`."""
    record: Callable[[StopReason], None]
    """Records in the run folder how the job ended."""

    @property
    def interval(self) -> float:
        return max(0.2, min(2.0, patience(self.timeout) / 10), self.size / FILES_PER_SECOND)


class Watchdog:
    """The thread of one rank; a context manager."""

    def __init__(self, job: WatchedJob, pulse: PhaseTimer, signals: Signals) -> None:
        self._job, self._pulse, self._signals = job, pulse, signals
        self._heart = HeartbeatWriter(job.folder, job.id, job.rank)
        self._board = StopFiles(job.folder, job.id)
        self._host = socket.gethostname()
        self._parent = os.getppid()
        self._ending = threading.Event()
        self._lost = self._settled = False
        self._passed_on = 0
        self._neighbour: Heartbeat | None = None
        self._neighbour_seen = self._last_tick = time.monotonic()
        self._survey: tuple[float, dict[int, Heartbeat | None]] | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if not self._ending.is_set():
            self._pulse.mark(Phase.ENDED)
            self._ending.set()
            self._signals.wake()
            if self._thread.is_alive():
                self._thread.join()

    def _run(self) -> None:
        while True:
            ending = self._ending.is_set()  # read before the last heartbeat, which reports the end
            try:
                now, before = time.monotonic(), self._last_tick
                if now - before > SURVEY_BEATS * self._job.interval:
                    self._start_anew()  # this process itself was suspended
                self._last_tick = now
                self._tick()
            except OSError as error:
                # A rank that cannot write cannot tell whether others can: their silence proves nothing.
                self._start_anew()
                log.debug("heartbeat: %s", error)
            if ending and not self._lost:
                return
            self._signals.wait(self._job.interval)

    def _start_anew(self) -> None:
        """Forget all observations of other ranks."""
        self._neighbour_seen, self._survey = time.monotonic(), None

    def _tick(self) -> None:
        moment = self._pulse.now
        limit = phase_limit(self._job.timeout, moment, self._pulse.usual_step)
        own = self._heart.beat(moment, limit)
        verdict = self._board.verdict()
        if verdict is not None:
            self._obey(verdict)
        if moment.phase is Phase.ENDED and not self._lost:
            return
        self._pass_signals_on(moment.phase)
        if self._job.size > 1 and os.getppid() != self._parent:
            where = f"{own.name} (pid {own.pid})"
            self._accuse(f"the launcher of {where} is gone: it was killed, or its node is going down")
        self._look_around(own)

    def _pass_signals_on(self, phase: Phase) -> None:
        number = self._signals.pending()
        if not number:
            number = self._board.asked_to_stop()
            if number:
                self._signals.note(number)
        if number and phase is Phase.START:
            message = (
                f"stopped by {signal_name(number)} in start-up: nothing is lost, the same command goes on"
            )
            self._end(self._post(StoppedEarly.exit_code, message, at_once=True))
        if number and number != self._passed_on:
            self._passed_on = number
            self._board.ask_to_stop(number)

    def _look_around(self, own: Heartbeat) -> None:
        if not (self._lost or own.overdue or self._neighbour_is_lost()):
            self._survey = None
            return
        heartbeats = {rank: self._read(rank) for rank in range(self._job.size)}
        now = time.monotonic()
        dead = [
            rank
            for rank, heartbeat in heartbeats.items()
            if heartbeat is not None and not heartbeat.ended and is_dead(heartbeat)
        ]
        if self._survey is None and not dead:
            self._survey = now, heartbeats
            return
        before = self._survey
        if dead or before is None or now - before[0] >= SURVEY_BEATS * self._job.interval:
            silent = dead if before is None else self._silent(before[1], heartbeats)
            message = judge(heartbeats, silent)
            if message is not None:
                self._accuse(message, silent)
            self._survey, self._settled = None, self._lost

    def _neighbour_is_lost(self) -> bool:
        """Whether the rank before this one has given no sign of life for too long."""
        if self._job.size == 1:
            return False
        heartbeat, now = self._read((self._job.rank - 1) % self._job.size), time.monotonic()
        if heartbeat != self._neighbour:
            self._neighbour, self._neighbour_seen = heartbeat, now
        if heartbeat is None:
            return now - self._neighbour_seen > phase_limit(self._job.timeout, self._pulse.now, None)
        silent = now - self._neighbour_seen > patience(self._job.timeout)
        return not heartbeat.ended and (silent or is_dead(heartbeat))

    def _silent(self, before: dict[int, Heartbeat | None], beats: dict[int, Heartbeat | None]) -> list[int]:
        return [
            rank
            for rank, heartbeat in beats.items()
            if rank != self._job.rank
            and heartbeat == before[rank]
            and not (heartbeat is not None and heartbeat.ended)
        ]

    def _read(self, rank: int) -> Heartbeat | None:
        return read_heartbeat(self._job.folder, rank, self._job.id)

    def _accuse(self, message: str, silent: Sequence[int] = ()) -> None:
        """End the job with a verdict on a hang; rank 0 prints it, unless it is silent itself."""
        where = f"{message}. Stacks of all ranks that could write them are in {self._job.log.parent}"
        told_by = self._job.rank if 0 in silent else 0
        self._end(self._post(HealthError.exit_code, where, at_once=True, told_by=told_by))

    def _post(self, code: int, message: str, *, at_once: bool, told_by: int = 0) -> StopReason:
        """The verdict in force; if the disk cannot be written, this rank follows its own."""
        verdict = StopReason(code, message, self._job.rank, told_by, at_once)
        try:
            return self._board.post(verdict)
        except OSError:
            return verdict

    def fail(self, error: BaseException, code: int) -> StopReason:
        """The main thread ends with an error: tell all ranks, unless another rank has failed before.

        Args:
            error: what ended it. If it is a broken connection, the rank that broke it is looked for first; if
                there is one, this process ends here.
            code: exit code.

        Returns:
            The verdict in force.
        """
        where = f"rank {self._job.rank} on {self._host} failed in {_place(self._pulse)}"
        if self._job.size > 1 and is_lost_connection(error):
            self._lost = True
            self._signals.wake()
            deadline = time.monotonic() + 2 * (SURVEY_BEATS + 1) * self._job.interval + GRACE_SECONDS
            while not self._settled and time.monotonic() < deadline:
                time.sleep(0.05)
        self._lost = False
        text = str(error) if isinstance(error, UserError) else machine_error(error)
        text = text or f"{type(error).__name__}: {error}"
        try:
            return self._post(code, f"{where}: {text}", at_once=False)
        finally:
            self.close()

    def _obey(self, verdict: StopReason) -> None:
        """End as the verdict says; a main thread that has noticed the failure ends on its own."""
        if verdict.at_once:
            self._end(verdict)
        if verdict.rank != self._job.rank and not self._ending.wait(GRACE_SECONDS):
            self._end(verdict)

    def _end(self, verdict: StopReason) -> None:
        end_process(verdict, self._job)


def _place(pulse: PhaseTimer) -> str:
    moment = pulse.now
    return f"{moment.phase.value} of step {moment.step}" if moment.step else moment.phase.value


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is of a kind that the death of another rank causes."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(words in text for words in LOST_CONNECTION)


def end_process(verdict: StopReason, job: WatchedJob) -> None:
    """Write the last messages, then end this process with the verdict's code: no collective, no clean-up."""
    last = threading.Timer(LAST_SECONDS, os._exit, [verdict.code])
    last.daemon = True
    last.start()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        with open(job.log, "a") as file:
            file.write(f"{moment} {socket.gethostname()} rank {job.rank} ERROR: {verdict.message}\n")
            if verdict.code != StoppedEarly.exit_code:
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
    except OSError as error:
        print_error(f"{job.log}: {error}")
    if job.rank in (verdict.told_by, 0, verdict.rank):
        job.record(verdict)
    if job.rank == verdict.told_by:
        print_error(f"pretrain: error: {verdict.message}")
    os._exit(verdict.code)
