"""One save over all ranks: who waits for whom, and the one outcome that every rank learns.

Messages, all through the `Coordinator`:

    rank r to rank 0    need/r    how many bytes it will write
    rank 0 to all       begin     the temporary folder, made after the free space was checked
    rank r to rank 0    done/r    its files and tensors, fsynced; or why it could not write them
    rank 0 to all       verdict   after index, manifest, rename, `latest` and retention; or after cleaning up

A disk error on any rank fails the save on every rank. Anything else that goes wrong is a bug or a lost rank,
and the outcome is fatal: to continue training would only hide it.
"""

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_tools.atomic import sync_folder
from pretrain.checkpoint.coordinator import CoordinationError, Coordinator
from pretrain.checkpoint.files import remove
from pretrain.checkpoint.layout import checkpoints_folder, leftovers, step_name
from pretrain.checkpoint.retention import Retention, drop_later, retire
from pretrain.checkpoint.write import (
    OnEvent,
    SaveJob,
    WrittenFiles,
    complete,
    publish,
    require_space,
    write_shards,
)
from pretrain.errors import UserError


@dataclass(frozen=True)
class SaveOutcome:
    """How a save ended, the same on every rank."""

    ok: bool
    reason: str = ""
    """Why it failed."""
    fatal: bool = False
    """Not a disk error: the run must stop at once."""
    size: int = 0
    """Bytes of the whole checkpoint."""
    messages: tuple[str, ...] = ()
    """Anything else that the user should know."""

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, text: bytes) -> "SaveOutcome":
        value = json.loads(text)
        return cls(**{**value, "messages": tuple(value["messages"])})


@dataclass(frozen=True)
class Team:
    """The ranks that save together, as seen by one of them."""

    rank: int
    world_size: int
    coordinator: Coordinator
    timeout: float
    """Seconds to wait for another rank."""
    prefix: str
    """Keys of this save begin with it."""

    def put(self, key: str, value: bytes) -> None:
        self.coordinator.put(f"{self.prefix}/{key}", value)

    def get(self, key: str) -> bytes:
        """Wait for a message of another rank."""
        return self.coordinator.get(f"{self.prefix}/{key}", self.timeout)

    def forget(self, key: str) -> None:
        self.coordinator.delete(f"{self.prefix}/{key}")


@dataclass(frozen=True)
class SaveTarget:
    """Where checkpoints are written, and which are kept."""

    run_dir: Path
    keep: Retention
    on_event: OnEvent

    @property
    def folder(self) -> Path:
        return checkpoints_folder(self.run_dir)


def run_save(job: SaveJob, team: Team, target: SaveTarget) -> SaveOutcome:
    """This rank's part of a save, from its first message to the outcome. Errors become a failed outcome, not
    exceptions."""
    try:
        return (_lead if team.rank == 0 else _follow)(job, team, target)
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> SaveOutcome:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return SaveOutcome(False, f"{where}{error.strerror or error}")
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return SaveOutcome(False, reason, fatal=True)


def _follow(job: SaveJob, team: Team, target: SaveTarget) -> SaveOutcome:
    team.put(f"need/{team.rank}", str(job.bytes_needed(leads=False)).encode())
    begin = json.loads(team.get("begin"))
    if "folder" not in begin:
        return SaveOutcome.parse(team.get("verdict"))
    try:
        written = write_shards(target.folder / begin["folder"], team.rank, job, target.on_event)
        answer = json.dumps(written.to_json()).encode()
    except Exception as error:
        answer = json.dumps({"failure": asdict(_failure(error))}).encode()
    team.put(f"done/{team.rank}", answer)
    return SaveOutcome.parse(team.get("verdict"))


def _lead(job: SaveJob, team: Team, target: SaveTarget) -> SaveOutcome:
    temporary: Path | None = None
    try:
        needs = [int(team.get(f"need/{rank}")) for rank in range(1, team.world_size)]
        temporary = _begin(job, target, sum(needs) + job.bytes_needed(leads=True))
        team.put("begin", json.dumps({"folder": temporary.name}).encode())
        verdict = _gather_and_publish(job, team, target, temporary)
    except Exception as error:
        verdict = _failure(error)
        if temporary is None:
            with suppress(CoordinationError):
                team.put("begin", b"{}")
    if not verdict.ok and temporary is not None and temporary.exists():
        with suppress(OSError):  # what cannot be removed now is removed when the next save begins
            remove(temporary)
    team.put("verdict", verdict.dump())
    for rank in range(1, team.world_size):
        team.forget(f"need/{rank}")
        team.forget(f"done/{rank}")
    return verdict


def _begin(job: SaveJob, target: SaveTarget, needed: int) -> Path:
    if job.refusal is not None:
        raise job.refusal
    target.folder.mkdir(parents=True, exist_ok=True)
    for path in leftovers(target.folder):  # left by a failed save: it may be what fills the disk
        remove(path)
    require_space(target.folder, job.step, needed)
    temporary = target.folder / f".tmp-{step_name(job.step)}-{secrets.token_hex(4)}"
    temporary.mkdir()
    sync_folder(target.folder)
    return temporary


def _gather_and_publish(job: SaveJob, team: Team, target: SaveTarget, temporary: Path) -> SaveOutcome:
    failures: list[tuple[int, SaveOutcome]] = []
    written: dict[int, WrittenFiles] = {}
    try:
        written[0] = write_shards(temporary, 0, job, target.on_event)
    except Exception as error:
        failures.append((0, _failure(error)))
    for rank in range(
        1, team.world_size
    ):  # all of them, even after a failure: no one may write into a removed folder
        try:
            answer = json.loads(team.get(f"done/{rank}"))
        except CoordinationError as error:
            failures.append((rank, _failure(error)))
            continue
        if "failure" in answer:
            failures.append((rank, SaveOutcome.parse(json.dumps(answer["failure"]).encode())))
        else:
            written[rank] = WrittenFiles.from_json(answer)
    if failures:
        reasons = "; ".join(f"rank {rank}: {failure.reason}" for rank, failure in failures[:4])
        more = f"; and {len(failures) - 4} more ranks" if len(failures) > 4 else ""
        return SaveOutcome(False, reasons + more, fatal=any(failure.fatal for _, failure in failures))
    size = complete(temporary, job, written, target.on_event)
    messages = drop_later(target.folder, job.step)
    messages += publish(temporary, job.step, target.on_event)
    messages += _guarded(lambda: retire(target.folder, job.step, target.keep, target.on_event))
    return SaveOutcome(True, size=size, messages=tuple(messages))


def _guarded(tidy: Callable[[], list[str]]) -> list[str]:
    """The checkpoint is published: a disk error while tidying up does not make the save fail."""
    try:
        return tidy()
    except OSError as error:
        return [f"old checkpoints could not be tidied up: {error.filename or ''} {error.strerror or error}"]


def with_count(verdict: SaveOutcome, failed: int, allowed: int) -> SaveOutcome:
    """The outcome of the last of `failed` failed saves in a row: fatal once they reach `allowed`."""
    if verdict.ok or verdict.fatal or failed < allowed:
        return verdict
    saves = "the last save" if failed == 1 else f"the last {failed} saves in a row"
    return replace(
        verdict, fatal=True, reason=f"{saves} failed (checkpoint.max_failures: {allowed}): {verdict.reason}"
    )
