"""`Saver`: how the trainer saves, synchronously or in the background; it survives failed saves."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint.coordinator import Coordinator
from pretrain.checkpoint.layout import step_name
from pretrain.checkpoint.protocol import SaveOutcome, SaveTarget, Team, run_save, with_count
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.room import missing_room
from pretrain.checkpoint.sharded_tensor import ShardedTensor
from pretrain.checkpoint.write import OnEvent, SaveJob, readable
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import IntegrityError, UserError


@dataclass(frozen=True)
class SaveReport:
    """How one save went."""

    step: int
    ok: bool
    reason: str
    """Why it failed."""
    bytes: int
    """Size of the whole checkpoint, over all ranks."""
    seconds: float
    """From the call until the checkpoint was published (or given up)."""
    stalled_seconds: float
    """How long the save stopped training: copying to host memory and waiting, or all of it."""
    path: Path | None
    """The checkpoint."""


class _HostCopies:
    """Copies of tensors in host memory; the memory is kept for the next save, which avoids page faults."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], torch.Tensor] = {}

    def take(self, shards: Sequence[ShardedTensor]) -> tuple[ShardedTensor, ...]:
        """The shards with copies of their tensors, which training does not change."""
        kept: dict[tuple[str, str], torch.Tensor] = {}
        for shard in shards:
            source = shard.tensor.detach()
            buffer = self._buffers.get((shard.group, shard.name))
            if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
                buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            kept[shard.group, shard.name] = buffer.copy_(source, non_blocking=True)
        if any(shard.tensor.is_cuda for shard in shards):
            torch.cuda.current_stream().synchronize()  # once, not for every tensor
        self._buffers = kept
        return tuple(replace(shard, tensor=kept[shard.group, shard.name]) for shard in shards)


class _Pending:
    """A save in progress in a thread."""

    def __init__(self, step: int, started: float, stalled: float, work: Callable[[], SaveOutcome]) -> None:
        self.step = step
        self.started = started
        self.stalled = stalled
        self.finished = started
        self._verdict: SaveOutcome | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"save-{step}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._verdict = self._work()
        self.finished = time.monotonic()

    def wait(self) -> SaveOutcome:
        self._thread.join()
        return self._verdict or SaveOutcome(False, "the thread that saved died", fatal=True)


class Saver:
    """Saves checkpoints of one run from every rank; all ranks call the same methods in the same order."""

    def __init__(
        self,
        run_dir: Path | str,
        settings: CheckpointConfig,
        rank: int,
        world_size: int,
        coordinator: Coordinator,
        *,
        say: Callable[[str], None] = lambda _: None,
        first: Callable[[], None] = lambda: None,
        on_event: OnEvent = lambda _: None,
        timeout: float = 3600.0,
    ) -> None:
        """Set up; writes nothing yet.

        Args:
            run_dir: on a file system that all ranks share.
            settings: section `checkpoint` of the config.
            coordinator: reaches all ranks; each Saver needs its own keys there.
            say: called in the calling thread and on rank 0 alone, for failed saves and for what was tidied
                up.
            first: called on rank 0, in the calling thread, before each save; if it raises OSError, the save
                fails.
            on_event: called at each stage of a save with its name, by the thread that writes; for fault
                injection.
            timeout: seconds to wait for another rank's part of a save.
        """
        self._settings = settings
        self._target = SaveTarget(Path(run_dir), Retention(settings.keep_last, settings.keep_every), on_event)
        self._rank, self._world_size = rank, world_size
        self._coordinator, self._timeout = coordinator, timeout
        self._say = say if rank == 0 else lambda _: None
        self._first = first if rank == 0 else lambda: None
        self._copies: _HostCopies | None = None
        self._pending: _Pending | None = None
        self._attempts = 0
        self._failed_in_a_row = 0
        self.last: SaveReport | None = None
        """The newest save that has finished."""
        self.newest: int | None = None
        """Step of the newest checkpoint, saved here or loaded by whoever sets this; None: there is none."""

    def save(
        self,
        step: int,
        shards: Sequence[ShardedTensor],
        state: Mapping[str, Any],
        files: Mapping[str, bytes | Path] | None = None,
        *,
        last: bool = False,
    ) -> SaveReport | None:
        """Save a checkpoint; with `checkpoint.async`, copy it and return, if memory has room for copies.

        Args:
            step: optimizer steps done.
            shards: the shards of this rank; those it owns are written. Empty on a rank that owns nothing.
            state: JSON-able, the same on all ranks; rank 0's is stored.
            files: further files by relative name (config.yaml, tokenizer/): content, or a file or folder to
                copy.
            last: no later save can make up for a failure, so it is saved synchronously and must not fail.

        Returns:
            The report of the save that finished in this call: this one, or with `checkpoint.async` the one
                before, if any.

        Raises:
            UserError: `checkpoint.max_failures` saves in a row failed, or the last one; or a rank did not
                answer. The message says what is on disk.
            IntegrityError: the shards of all ranks do not cover every tensor exactly once.
        """
        started = time.monotonic()
        before = self.join()
        text = json.dumps(dict(state), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
        job = replace(SaveJob.of(step, shards, text, files or {}), refusal=self._refusal())
        self._attempts += 1
        prefix = f"{self._target.folder}/{self._attempts}"
        team = Team(self._rank, self._world_size, self._coordinator, self._timeout, prefix)
        self._forget_previous(team)
        if self._settings.async_ and self._attempts == 1 and not last:
            self._copies = self._make_copies(job.shards, team)
        if self._copies is not None and not last:
            job = replace(job, shards=self._copies.take(job.shards))
            stalled = time.monotonic() - started
            self._pending = _Pending(step, started, stalled, lambda: run_save(job, team, self._target))
            return before
        verdict = run_save(job, team, self._target)
        now = time.monotonic()
        return self._settle(step, verdict, now - started, now - started, ends=last)

    def join(self, *, ends: bool = False) -> SaveReport | None:
        """Wait for the save in progress; its report, or None if there was none.

        Args:
            ends: the run ends, so no later save can make up for a failed one.

        Raises:
            UserError, IntegrityError: as `save`.
        """
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        waited = time.monotonic()
        verdict = pending.wait()
        stalled = pending.stalled + time.monotonic() - waited
        return self._settle(pending.step, verdict, pending.finished - pending.started, stalled, ends=ends)

    def close(self) -> SaveReport | None:
        """As `join`; call it before the process ends, or a save in the background is lost."""
        return self.join(ends=True)

    @property
    def on_disk(self) -> str:
        """In words: what a run that ends now could resume from."""
        if self.newest is None:
            return "there is no checkpoint: the same command begins at step 0"
        return (
            f"the newest checkpoint is of step {self.newest}: what came after it is lost, and the same "
            "command goes on from there"
        )

    def _refusal(self) -> OSError | None:
        try:
            self._first()
        except OSError as error:
            return error
        return None

    def _make_copies(self, shards: Sequence[ShardedTensor], team: Team) -> _HostCopies | None:
        """Called before the first save; None, on all ranks, if the machines have no room for the copies."""
        missing = missing_room(shards, team)
        if missing:
            self._say(
                f"checkpoint.async has no effect: {missing}; every save holds training up until it is done"
            )
        return None if missing else _HostCopies()

    def _forget_previous(self, team: Team) -> None:
        if self._rank == 0 and self._attempts > 2:
            # When a save begins, every rank has joined the one before the last, so nobody reads its keys any
            # more.
            old = replace(team, prefix=f"{self._target.folder}/{self._attempts - 2}")
            for key in ("begin", "verdict"):
                old.forget(key)

    def _settle(
        self, step: int, verdict: SaveOutcome, seconds: float, stalled: float, *, ends: bool
    ) -> SaveReport:
        self._failed_in_a_row = 0 if verdict.ok else self._failed_in_a_row + 1
        verdict = with_count(verdict, self._failed_in_a_row, self._settings.max_failures)
        path = self._target.folder / step_name(step) if verdict.ok else None
        self.newest = step if verdict.ok else self.newest
        self.last = SaveReport(step, verdict.ok, verdict.reason, verdict.size, seconds, stalled, path)
        for message in verdict.messages:
            self._say(message)
        if verdict.ok:
            rate = verdict.size / max(seconds, 1e-9)
            self._say(f"saved {path}: {readable(verdict.size)} in {seconds:.2f} s ({readable(int(rate))}/s)")
            return self.last
        if verdict.fatal:
            broken = verdict.reason.startswith("checkpoint not written")
            kind = IntegrityError if broken else UserError
            raise kind(f"step {step}: {verdict.reason}; {self.on_disk}")
        failed = f"step {step} was not saved: {verdict.reason}"
        if ends:
            raise UserError(f"{failed}; {self.on_disk}")
        left = self._settings.max_failures - self._failed_in_a_row
        self._say(
            f"{failed}; the run goes on from memory, "
            f"and stops if {'the next save fails' if left == 1 else f'{left} more saves in a row fail'}"
        )
        return self.last
