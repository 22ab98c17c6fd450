"""A run in progress: its folder and lock, journal and status, signals, and when to save, validate and stop.

Every trainer lives in one:

    with Session.open(config, text, resolved, rank, together) as run:
        ...                                       # load the newest checkpoint, or begin at step 0
        run.begin(step, facts, run_id)
        for step in range(step + 1, config.run.steps + 1):
            signal = all_reduce_max(run.pending())  # the same on every rank
            if signal:
                ...                               # save a checkpoint
                raise run.stopped(step - 1, signal)
            ...
            run.log_step(step, metrics)
            if run.should_validate(step):
                run.log_validation(step, metrics)
            if run.should_save(step):
                run.sync()
                ...                               # save a checkpoint with run.id in it

Rank 0 does all input and output; the other ranks only write their logs and heartbeats. `together` lets rank 0
act and gives every rank its answer or raises its error (`collectives.broadcast_from_rank0`). A watchdog
(`health.watchdog`) runs from `open` to the end.
"""

import logging
import os
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import MappingProxyType, TracebackType

from rich.console import Console

from pretrain.config.sections import Config
from pretrain.errors import INTERRUPTED, StoppedEarly, UserError, machine_error
from pretrain.health.phase_timer import Phase, PhaseTimer
from pretrain.health.stop import StopReason, clear
from pretrain.health.watchdog import Watchdog, WatchedJob, end_process
from pretrain.run.exit import print_error
from pretrain.run.folder import RunFolder
from pretrain.run.logs import error_console, setup_logging
from pretrain.run.progress import TrainingProgress, metrics_line
from pretrain.run.signals import Signals, signal_name
from pretrain.run.status import State, Status, read_status, write_status
from pretrain.tracking.datasets import datasets_of
from pretrain.tracking.facts import environment_facts
from pretrain.tracking.journal import Journal
from pretrain.tracking.reach import last_step, require_checkpoints_lines
from pretrain.tracking.record import unfit
from pretrain.tracking.uploader_process import UploaderProcess

Together = Callable[[Callable[[], str]], str]
"""Called by every rank; rank 0 acts, and all ranks get its answer or raise its error."""

log = logging.getLogger(__name__)


class Session:
    """A run in progress; a context manager that records how the run ended.

    Attributes:
        folder: paths in the run folder.
        id: id of the logical run, the same on every rank and in every job that continues it; "" before
            `begin`.
        pulse: the phase that this rank is in; the watchdog watches whoever marks it.
    """

    def __init__(self, config: Config, rank: int, together: Together) -> None:
        self.folder = RunFolder(config.run.dir)
        self.id = ""
        self._config = config
        self._rank = rank
        self._together = together
        self._stack = ExitStack()
        self._step = 0
        self._told_signal = 0
        self._changes: dict[str, tuple[object, object]] = {}
        self._accept: Callable[[], None] = lambda: None
        self._console: Console | None = None
        self._signals = Signals()
        self.pulse = PhaseTimer()
        self._job: WatchedJob | None = None
        self._watch: Watchdog | None = None
        self._status: Status | None = None
        self._journal: Journal | None = None
        self._progress: TrainingProgress | None = None
        self._uploader: UploaderProcess | None = None

    @classmethod
    def open(
        cls,
        config: Config,
        config_text: str,
        resolved_text: str,
        rank: int = 0,
        together: Together = lambda act: act(),
        size: int = 1,
        signals: Signals | None = None,
    ) -> "Session":
        """Lock the run folder (rank 0), start the logs, catch signals and start the watchdog.

        Args:
            config_text: the config as its user wrote it.
            resolved_text: the config with every key, as YAML.
            together: see the top of this file; not needed for one process.
            signals: signals that are being caught already; None: from now on.

        Raises:
            UserError: on all ranks, if the folder is refused (`RunFolder.create_or_open`).
        """
        run = cls(config, rank, together)
        job = together(lambda: run._open_folder(config_text, resolved_text))
        try:
            run._console = error_console() if rank == 0 else None
            run._stack.enter_context(setup_logging(run.folder.rank_log(rank), rank, run._console))
        except OSError as error:
            run._stack.close()
            raise UserError(
                f"rank {rank} cannot write its log: {error.strerror} ({error.filename})"
            ) from None
        run._signals = signals or run._stack.enter_context(run._signals)
        timeout = config.health.hang_timeout
        log_file = run.folder.rank_log(rank)
        run._job = WatchedJob(job, run.folder.heartbeat, log_file, rank, size, timeout, run._record_end)
        run._watch = run._stack.enter_context(Watchdog(run._job, run.pulse, run._signals))
        return run

    def _open_folder(self, config_text: str, resolved_text: str) -> str:
        tracking = self._config.tracking
        if tracking.enabled and (reason := unfit(self.folder, tracking.uri)):
            raise UserError(f"run.dir: {reason}")
        opened = self.folder.create_or_open(config_text, resolved_text, self._config.run.resume)
        self._stack.callback(opened.lock.release)
        self._changes = opened.changes
        self._accept = opened.accept
        clear(self.folder.heartbeat)
        return uuid.uuid4().hex[:8]

    def begin(
        self,
        step: int,
        facts: Mapping[str, str] | None = None,
        run_id: str | None = None,
        *,
        other_course: bool = False,
    ) -> None:
        """Record where training starts: truncate the journal after that step and start the uploader.

        Args:
            step: optimizer steps done: 0, or those of the checkpoint that was loaded.
            facts: layout, fingerprints and the like, for `status.json` and the MLflow tags. A `*_fingerprint`
                must be the same in every job of a run.
            run_id: the id that the checkpoint holds, if one was loaded.
            other_course: steps after this one were done before and are given up.

        Raises:
            UserError: on all ranks, if a fingerprint differs or the folder cannot be written.
            IntegrityError: on all ranks, if the journal has lost lines of steps that are done.
        """
        self._step = step
        self.id = self._together(lambda: self._begin(step, dict(facts or {}), run_id, other_course))
        self.pulse.mark(Phase.DATA, step + 1)

    def _begin(self, step: int, facts: dict[str, str], run_id: str | None, other_course: bool) -> str:
        before = read_status(self.folder)
        _check_fingerprints(before.facts if before else {}, facts)
        now = time.time()
        self._status = Status(
            run=before.run if before else run_id or uuid.uuid4().hex,
            job=before.job + 1 if before else 1,
            state="running",
            step=step,
            steps=self._config.run.steps,
            started=now,
            time=now,
            facts=environment_facts() | facts,
            datasets=datasets_of(self._config),
            course=(before.course if before else 0) + other_course,
        )
        if run_id not in (None, self._status.run):
            log.warning(
                "the checkpoint comes from another run (%s); this one is %s", run_id, self._status.run
            )
        is_there = require_checkpoints_lines(self.folder.metrics, step)
        try:
            self._journal = Journal(self.folder.metrics)
            wound = self._journal.truncate_after(step)
            if step and not is_there:
                log.warning("%s is gone: the curves begin anew at step %d", self.folder.metrics, step + 1)
                self._journal.append(step, {})
            self._accept()
            write_status(self.folder, self._status)
        except OSError as error:
            why = f"{error.strerror} ({error.filename})"
            raise UserError(f"cannot write the run folder {self.folder.path}: {why}") from None
        if wound.superseded:
            log.info("%d lines after step %d moved to metrics.superseded.jsonl", wound.superseded, step)
        for key, (old, new) in self._changes.items():
            log.info("%s is now %r, it was %r", key, new, old)
        self._progress = self._stack.enter_context(
            TrainingProgress(self._config.run.steps, step, self._console or error_console())
        )
        if self._config.tracking.enabled:
            self._uploader = UploaderProcess(self.folder)
        return self._status.run

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Journal a step and show it, in tens of microseconds. Ranks other than 0 do nothing."""
        self._step = step
        if self._journal is not None:
            self._journal.append(step, metrics)
        if self._progress is not None:
            self._progress.update(step, metrics)
        if self._uploader is not None:
            self._uploader.look()

    def log_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a validation to the journal and always show them."""
        if self._journal is not None:
            self._journal.append(step, metrics)
            log.info("%s", metrics_line(step, self._config.run.steps, metrics))

    def log_more(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write further metrics of a step to the journal without showing them."""
        if self._journal is not None:
            self._journal.append(step, metrics)

    def rewind(self, step: int) -> None:
        """Go back to an earlier step within this job; later lines of the journal are superseded."""
        self._step = step
        if self._journal is not None and self._status is not None:
            self._journal.truncate_after(step)
            # The status after the journal, so that a reader who sees the new course also sees the new lines.
            self._status = replace(self._status, course=self._status.course + 1, step=step, time=time.time())
            with suppress(OSError):  # written again at the end
                write_status(self.folder, self._status)

    def sync(self) -> None:
        """Flush the journal to disk, before a checkpoint is saved. Raises OSError if the disk is full."""
        if self._journal is not None:
            self._journal.sync()

    def should_save(self, step: int, signal: int = 0) -> bool:
        """Whether to save after a step: when it is due, at the last step, or before a stop."""
        every = self._config.checkpoint.every
        return bool(signal) or step >= self._config.run.steps or (every is not None and step % every == 0)

    def should_validate(self, step: int) -> bool:
        """Whether to validate after a step: when it is due and at the last step."""
        every = self._config.eval.every
        return step >= self._config.run.steps or (every is not None and step % every == 0)

    def pending(self) -> int:
        """The signal that this rank received, 0 if none. Ranks agree on the largest before they act."""
        number = self._signals.pending()
        if number and number != self._told_signal:
            self._told_signal = number
            log.info("%s: saving a checkpoint, then stopping", signal_name(number))
        return number

    def stop_text(self, step: int, signal: int) -> str:
        return f"stopped by {signal_name(signal)} at step {step} of {self._config.run.steps}"

    def stopped(self, step: int, signal: int, saved: bool = True) -> StoppedEarly:
        """The error to raise on a signal. `saved`: whether a checkpoint was saved, or nothing was new."""
        what = "with a checkpoint saved" if saved else "before anything new was to be saved"
        return StoppedEarly(f"{self.stop_text(step, signal)} {what}; the same command goes on from there")

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, code, reason = _outcome(error)
        if error is not None and not isinstance(error, UserError):
            # With several ranks, `_end_watch` reports the error if it is the first failure.
            told = machine_error(error) is not None or (self._job is not None and self._job.size > 1)
            log.error("rank %d ends at step %d", self._rank, self._step, exc_info=error, extra={"live": told})
        self._end_watch(error, code)
        try:
            if self._journal is not None and self._status is not None:
                self._close(self._journal, self._status, state, code, reason)
        finally:
            self._stack.close()

    def _end_watch(self, error: BaseException | None, code: int) -> None:
        """Tell the other ranks of an error. An error that the others do not share ends this process here."""
        if self._watch is None or self._job is None:
            return
        if error is None:
            self._watch.close()
            return
        verdict = self._watch.fail(error, code)
        if self._job.size == 1 or isinstance(error, UserError | KeyboardInterrupt | SystemExit):
            return
        if verdict.rank != self._rank:
            end_process(verdict, self._job)
        self._record_end(verdict)
        if machine_error(error):
            print_error(f"pretrain: error: {verdict.message}")
        else:
            print_error(f"pretrain: {verdict.message}\n{''.join(traceback.format_exception(error))}")
        # Without clean-up: whatever talks to other ranks would wait for them, and they are ending too.
        os._exit(code)

    def _record_end(self, verdict: StopReason) -> None:
        """Record how the job ended, from any rank, since rank 0 may not be able to."""
        with suppress(OSError, UserError):
            status = read_status(self.folder)
            if status is not None and status.state == "running":
                end = replace(
                    status,
                    state="stopped" if verdict.code == StoppedEarly.exit_code else "failed",
                    step=max(status.step, last_step(self.folder.metrics)),
                    time=time.time(),
                    reason=verdict.message,
                    exit_code=verdict.code,
                )
                write_status(self.folder, end)

    def _close(self, journal: Journal, status: Status, state: State, code: int, reason: str | None) -> None:
        with suppress(OSError):
            journal.sync()  # first, because the status says that these lines exist
        journal.close()
        done = min(self._step, last_step(self.folder.metrics))
        end = replace(status, state=state, step=done, time=time.time(), exit_code=code, reason=reason)
        try:
            write_status(self.folder, end)
        except OSError as error:
            log.error("%s cannot be written: %s", self.folder.status, error)
        if self._uploader is not None:
            self._uploader.finish()


def _outcome(error: BaseException | None) -> tuple[State, int, str | None]:
    """State, exit code and reason that follow from what a run ended with."""
    if error is None:
        return "finished", 0, None
    if isinstance(error, StoppedEarly):
        return "stopped", error.exit_code, str(error)
    if isinstance(error, UserError):
        return "failed", error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped", INTERRUPTED, "interrupted; steps since the last checkpoint are lost"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return ("failed" if error.code else "finished"), error.code, f"exit code {error.code}"
    if message := machine_error(error):
        return "failed", UserError.exit_code, message
    return "failed", 1, f"{type(error).__name__}: {error}"


FINGERPRINTS = MappingProxyType(
    {
        "tokenizer_fingerprint": "the tokenizer",
        "data_fingerprint": "data.train",
        "validation_fingerprint": "data.validation",
        "chat_template_fingerprint": "the chat template",
    }
)
"""Fact that every job of a run must share -> what it is the fingerprint of."""


def _check_fingerprints(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse other contents. Paths of data may change when a run is resumed, but not what they hold."""
    for key, value in now.items():
        old = before.get(key, value)
        if key.endswith("_fingerprint") and old != value:
            raise UserError(
                f"{FINGERPRINTS.get(key, key)} holds something else than when the run began: {key} "
                f"{old[:16]} then, {value[:16]} now; going on would mix two runs. Give back what it was, or "
                "choose another run.dir"
            )
