"""A whole run: open its folder, load the newest good checkpoint, step, validate, save, end.

`pretrain train CONFIG` is one rank of it inside srun or torchrun, or starts the ranks itself with
`--processes N`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pretrain.checkpoint import (
    SUSPECT_SINCE,
    Checkpoint,
    Fault,
    Retention,
    Saver,
    SharedCheck,
    StoreCoordinator,
    clean,
    find_good,
    open_checkpoint,
    trim,
)
from pretrain.config.load import LoadedConfig
from pretrain.config.resolved import config_to_yaml
from pretrain.config.unreached import unreached
from pretrain.cpu.products.settle import FACT, as_begun
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.help import decide_with_help
from pretrain.distributed.world import DistContext
from pretrain.errors import HealthError, OutputError, UserError
from pretrain.health.heartbeat import rank_name
from pretrain.health.nonfinite import require_finite
from pretrain.health.phase_timer import Phase, by_cause, shares
from pretrain.health.stragglers import Stragglers
from pretrain.kinds import kind_of
from pretrain.megatron.restore import RESOLVED_CONFIG
from pretrain.run.signals import Signals
from pretrain.training.profiling.profiler import StepProfiler
from pretrain.training.session import Session
from pretrain.training.step_sync import Interrupted, StepSync
from pretrain.training.trainer import StepResult, Trainer

log = logging.getLogger(__name__)

BuildTrainer = Callable[[Any, DistContext, StepSync, Checkpoint | None], Trainer[Any]]
"""Makes a run's trainer on this rank; see `Kind.trainer`."""


def train(loaded: LoadedConfig, world: DistContext, signals: Signals | None = None) -> None:
    """Train to `run.steps`.

    Args:
        world: all its ranks call this together.
        signals: being caught already; None: from now on.

    Raises:
        StoppedEarly: a signal came; a checkpoint is saved.
        UserError: the final state could not be saved.
        HealthError: a verdict ended the run.
    """
    resolved = config_to_yaml(loaded.config)
    run = Session.open(
        loaded.config,
        loaded.text_as_written,
        resolved,
        world.rank,
        lambda act: broadcast_from_rank0(world, act),
        world.size,
        signals,
    )
    with run:
        _Loop(loaded, resolved, world, run, kind_of(loaded.config).trainer).go()


class _Loop:
    def __init__(
        self, loaded: LoadedConfig, resolved: str, world: DistContext, run: Session, build: BuildTrainer
    ) -> None:
        self.config = loaded.config
        self.world = world
        self.run = run
        self.step_sync = StepSync(world, run.pulse, run.pending)
        together = partial(broadcast_from_rank0, world)
        self.products = world.products and as_begun(world.products, run.folder, together)
        # The checkpoint to resume from, and the later one that was passed over for skipped updates.
        found, self.gone_back_from = self.find_together()
        self.found = open_checkpoint(found) if found is not None else None
        self.trainer = build(self.config, world, self.step_sync, self.found)
        self.profiler = StepProfiler(loaded.config.train.profile, run.folder.profile, run.pulse, world)
        self.stragglers = Stragglers(world.size, lambda rank: rank_name(run.folder.heartbeat, rank))
        self.passes = 0
        self.safe: int | None = 0
        """Steps done that a stop does not lose; None: there is something to save at any step."""
        self.to_validate = False
        """Whether the checkpoint is of a step whose validation was abandoned."""
        self.rolled_back_to: list[int] = []
        """Steps done at the checkpoints that this job has rolled back to after spikes."""
        self.saver = Saver(
            run.folder.path,
            loaded.config.checkpoint,
            world.rank,
            world.size,
            StoreCoordinator(world.store),
            say=log.info,
            first=run.sync,
        )
        self.files: dict[str, bytes | Path] = {
            "config.yaml": loaded.text_as_written.encode(),
            RESOLVED_CONFIG: resolved.encode(),
            **self.trainer.files(),
        }

    def go(self) -> None:
        """Run from the newest good checkpoint, or step 0, to the end."""
        done, run_id = self.resume()
        gone_back_from = self.gone_back_from
        facts = self.trainer.facts() | ({FACT: self.products.choice.text} if self.products else {})
        self.run.begin(done, facts, run_id, other_course=gone_back_from is not None)
        self.run.pulse.spent()  # the time of starting belongs to no step
        log.info("%s: %s", "going on" if done else "starting", self.trainer.describe())
        for key, text in unreached(self.config):
            log.info("note: %s: %s", key, text)
        try:
            if gone_back_from is not None:
                self.trainer.go_back(done, open_checkpoint(gone_back_from))
            if gone_back_from is not None or (done == 0 and self.trainer.may_roll_back):
                self.save(done)
            if self.to_validate:
                self.validate(done)
            while done < self.config.run.steps:
                done = self.step(done)
            self.require_updates(done)
        except HealthError:
            # All ranks are here together, so a save in progress can finish. If it fails, the
            # verdict still ends the run.
            try:
                self.saver.close()
            except UserError as error:
                log.error("%s", error)
            raise
        finally:
            self.profiler.close()
        log.info("finished: all %d steps are done", self.config.run.steps)

    def resume(self) -> tuple[int, str | None]:
        """Load the newest good checkpoint.

        Returns:
            Steps done, and the id of the run that the checkpoint belongs to; (0, None) for a new run.
        """
        checkpoint = self.found
        if checkpoint is None:
            return 0, None
        done = self.safe = self.saver.newest = self.trainer.load(checkpoint)
        self.to_validate = bool(checkpoint.state.get("to_validate"))
        log.info("resumed from %s", checkpoint.path)
        return done, checkpoint.state.get("run")

    def find_together(self, doubted: Mapping[int, str] | None = None) -> tuple[str | None, str | None]:
        """The newest good checkpoint of the run folder, and the later one at which updates were being
        skipped. Each rank reads a part of their files.

        `doubted`: as for `find_good`.
        """
        shared = SharedCheck(self.world.rank, self.world.size)
        found, suspect = decide_with_help(
            self.world, lambda ask: self._find(doubted, shared.over(ask)), shared.work
        )
        return found, suspect

    def _find(
        self, doubted: Mapping[int, str] | None, check: Callable[[Path], list[Fault]]
    ) -> tuple[str | None, str | None]:
        for line in clean(self.run.folder.path):
            log.info("%s", line)
        found = find_good(self.run.folder.path, doubted, check)
        for other, reason in found.passed_over:
            log.warning("passed over %s: %s", other, reason)
        if found.path is None:
            return None, None
        keep = self.config.checkpoint
        retention = Retention(keep.keep_last, keep.keep_every)
        for line in trim(self.run.folder.path, open_checkpoint(found.path).step, retention):
            log.info("%s", line)
        return str(found.path), str(found.suspect) if found.suspect else None

    def require_updates(self, done: int) -> None:
        """Raise HealthError at the end of a run whose last updates were skipped."""
        since = self.trainer.state(done).get(SUSPECT_SINCE)
        if since is not None:
            raise HealthError(
                f"the run is at its end, and the updates of its last steps, from {since} on, were skipped; "
                "the same command goes back to before them"
            )

    def step(self, index: int) -> int:
        """Step `index`, counted from 0, and what follows it.

        Returns:
            Steps done: one more, or fewer after a rollback.
        """
        step, run = index + 1, self.run
        self.profiler.before(step, self.config.run.steps)
        run.pulse.mark(Phase.DATA, step)
        began = time.perf_counter()
        try:
            result = self.trainer.step(index)
        except Interrupted as interrupted:
            self.stop(index, interrupted.signal)
        seconds = time.perf_counter() - began
        self.passes += 1
        assert self.step_sync.passed == self.passes, "passed once a step, or signals are lost"
        run.pulse.mark(Phase.JOURNAL)
        run.log_step(step, self.metrics(result, seconds))
        if result.spike:
            log.warning("step %d: loss %.4f is a spike", step, result.loss)
            if not result.updated:
                return self.roll_back(index)
        if run.should_validate(step):
            self.validate(step)
        self.keep(step, run.should_save(step), last=step >= self.config.run.steps)
        if profiled := self.profiler.after(step):
            run.pulse.mark(Phase.JOURNAL)
            run.log_more(step, profiled)
        return step

    def validate(self, step: int) -> None:
        """Validate after `step` steps. A signal cuts it off, and the next job makes up for it."""
        self.to_validate = True
        self.run.pulse.mark(Phase.VALIDATION)
        try:
            metrics = self.trainer.validate(step)
        except Interrupted as interrupted:
            self.stop(step, interrupted.signal)
        except OutputError:
            # A file that cannot be written must not cost the training.
            self.keep(step, step != self.safe, last=True)
            raise
        if metrics is not None:
            self.run.log_validation(step, metrics)
        self.to_validate = False

    def keep(self, step: int, saves: bool, last: bool) -> None:
        """Compare replicas and save after `step` steps, if they are due.

        Raises UserError if saving has failed too often, or for the `last` time.
        """
        if self.should_compare(step, saves):
            self.run.pulse.mark(Phase.COMPARISON)
            self.trainer.check_replicas(step)
        if saves:
            self.save(step, last=last)

    def stop(self, done: int, signal: int) -> NoReturn:
        """End on a signal, after `done` steps, with a checkpoint of them.

        Raises:
            StoppedEarly: the checkpoint is saved.
            UserError: it is not, and why.
        """
        self.run.pulse.mark(Phase.SAVING)
        try:
            self.saver.join()
            last = self.saver.last
            if last is not None and last.ok:
                self.safe = last.step
            new = done != self.safe
            self.keep(done, new, last=True)
        except HealthError:
            raise
        except UserError as error:
            raise type(error)(f"{self.run.stop_text(done, signal)}: {error}") from None
        raise self.run.stopped(done, signal, new)

    def should_compare(self, step: int, saves: bool) -> bool:
        """Whether to compare replicas after a step. No checkpoint is saved without a comparison."""
        every = self.config.health.replica_check_every
        return self.world.size > 1 and every != 0 and (saves or (every is not None and step % every == 0))

    def roll_back(self, spike: int) -> int:
        """Go back to the last good checkpoint after a spike in step `spike`, counted from 0.

        Returns:
            Steps done there.

        Raises:
            HealthError: too many rollbacks, or there is no checkpoint yet.
        """
        self.run.pulse.mark(Phase.LOADING)
        self.saver.join()
        # If the step after a checkpoint is a spike with any samples, the weights may be the cause.
        again = self.rolled_back_to[-2:] == [spike, spike]
        doubted = {spike: "its next step is a spike of other samples too"} if again else {}
        found, _ = self.find_together(doubted)
        if found is None:
            raise HealthError(f"step {spike + 1}: the loss is a spike, with no checkpoint to go back to")
        done = self.trainer.roll_back(open_checkpoint(found), spike)
        self.rolled_back_to.append(done)
        self.run.rewind(done)
        # Saved again with the jump recorded, so that a resume makes the jump too.
        self.safe, self.saver.newest = None, done
        self.save(done)
        return done

    def metrics(self, result: StepResult, seconds: float) -> dict[str, float]:
        """The journal line of a step; shares are of the time since the line before."""
        spent = shares(by_cause(self.run.pulse.spent()))
        metrics = {**result.metrics, **self.trainer.speed(result, seconds), **spent}
        if result.spike:
            metrics["spike"] = 1
        elif not result.updated:
            metrics["skipped"] = 1
        ratio = self.stragglers.add(self.step_sync.own_seconds) if self.world.is_first else None
        if ratio is not None:
            metrics["straggler_ratio"] = ratio
        return metrics

    def save(self, step: int, *, last: bool = False) -> None:
        """Save after `step` steps; `checkpoint.max_failures` decides what a failure means.

        The `last` one may not fail. The journal is flushed to disk first. If that fails, the save counts as
        failed: a resume would leave a gap in every curve.

        Raises HealthError, and saves nothing, if a number is not finite.
        """
        self.run.pulse.mark(Phase.SAVING)
        tensors = list(self.trainer.pieces())
        require_finite(self.world, step, tensors)
        state = self.trainer.state(step) | {"run": self.run.id, "to_validate": self.to_validate}
        if (since := state.get(SUSPECT_SINCE)) is not None:
            log.warning(
                "step %d is saved while updates are skipped, from step %d on: a resume goes back further",
                step,
                since,
            )
        self.saver.save(step, tensors, state, self.files, last=last)
