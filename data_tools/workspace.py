"""The output directory of a build in progress: who may write, what is done, what can be deleted.

`DIR/.build` holds the plan (the arguments and a digest of the inputs), a lock that a crash releases,
temporaries and one result file per finished partition. A build that is killed at any moment is continued by
the same command; another command is refused once a partition is finished. `index.json` is written when all
partitions are done, then `.build` is deleted.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from data_tools.atomic import write_atomically
from data_tools.bad_records import SKIPPED_NAME
from data_tools.errors import UserError, machine_error
from data_tools.index_file import INDEX_NAME, SHARD_NAME, WORK_DIR, ShardFile

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PLAN_NAME = "build.json"
TEMPORARIES = ".*.tmp"


@dataclass(frozen=True)
class OutputLayout:
    """The files in an output directory of one kind of build."""

    last: str
    """The file that is written last: once it exists, the directory is finished."""
    pattern: re.Pattern[str]
    """Names of the files that partitions write."""
    others: frozenset[str] = frozenset()
    """Other names that may exist there."""
    changeable: frozenset[str] = frozenset()
    """Keys of the plan that may change before it is finished, because partitions check them themselves."""

    @property
    def names(self) -> frozenset[str]:
        """All known names, except for the files of partitions."""
        return self.others | {self.last, PLAN_NAME, SKIPPED_NAME, WORK_DIR}


SHARDS = OutputLayout(INDEX_NAME, SHARD_NAME, frozenset({"tokenizer"}))


class Finished(Protocol):
    """The result of a finished partition: a dataclass, to which a builder adds its own counts."""

    @property
    def number(self) -> int: ...

    @property
    def shards(self) -> Sequence[ShardFile]: ...


Result = TypeVar("Result", bound=Finished)


class Workspace:
    """The paths of a build in its directory; `work`: the folder of temporaries and results in it."""

    def __init__(self, directory: Path, layout: OutputLayout = SHARDS, work: str = WORK_DIR) -> None:
        self.directory, self.layout, self.work = directory, layout, directory / work

    def save(self, number: int, result: "DataclassInstance") -> None:
        write_atomically(self.work / f"{number:06d}.json", json.dumps(asdict(result)))

    def finished(self, partitions: int, parse: Callable[[bytes], Result]) -> dict[int, Result]:
        """The finished partitions by number; `parse` makes a result from the JSON that `save` wrote.

        A partition whose shards are not all there counts as not finished.
        """
        results = {}
        for number in range(partitions):
            path = self.work / f"{number:06d}.json"
            if path.exists():
                try:
                    result = parse(path.read_bytes())
                except ValueError:  # damaged: process the partition again
                    continue
                if all(self._has(shard) for shard in result.shards):
                    results[number] = result
        return results

    def clean(self, keep: Mapping[int, Finished]) -> None:
        """Delete temporaries and files of unfinished partitions."""
        for path in [*self.work.glob("*.tmp"), *self.directory.glob(TEMPORARIES)]:
            path.unlink(missing_ok=True)  # a worker of a killed build may still be renaming its last file
        kept = {shard.name for result in keep.values() for shard in result.shards}
        for path in self.directory.iterdir():
            if self.layout.pattern.fullmatch(path.name) and path.name not in kept:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def _has(self, shard: ShardFile) -> bool:
        path = self.directory / shard.name
        return path.is_file() and path.stat().st_size == shard.size


@contextlib.contextmanager
def open_workspace(
    directory: Path, plan: dict[str, Any], restart: bool, layout: OutputLayout = SHARDS
) -> Iterator[Workspace | None]:
    """Take the output directory for this build; None if it already holds exactly this build, finished.

    What an attempt with other arguments left (one with a typo, say) is no obstacle if it finished no
    partition. Raises UserError if it holds anything else, another build is writing it, or it cannot be
    written.
    """
    workspace = Workspace(directory, layout)
    if (directory / layout.last).exists():
        _refuse_unless_same(directory / PLAN_NAME, plan, "a finished build")
        if restart:
            raise UserError(f"--restart: the build in {directory} is finished; delete it to build it again")
        workspace.remove()
        yield None
        return
    try:
        _check_foreign(directory, layout)
        workspace.work.mkdir(parents=True, exist_ok=True)
        lock = open(workspace.work / "lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"--output {directory}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--output {directory}: another build is writing it") from None
        path = workspace.work / PLAN_NAME
        if restart:
            for old in workspace.work.glob("*.json"):
                old.unlink()
        if path.exists() and any(old != path for old in workspace.work.glob("*.json")):
            _refuse_unless_same(path, plan, "an unfinished build", layout.changeable)
        write_atomically(path, json.dumps(plan, indent=1) + "\n")
        yield workspace


def require_free(directory: Path, plan: dict[str, Any], layout: OutputLayout = SHARDS) -> None:
    """Refuse an output directory that `open_workspace` would refuse for its content, without writing.

    Raises UserError if it holds anything other than this build.
    """
    if (directory / layout.last).exists():
        _refuse_unless_same(directory / PLAN_NAME, plan, "a finished build")
        return
    _check_foreign(directory, layout)
    path = Workspace(directory, layout).work / PLAN_NAME
    if path.exists():
        _refuse_unless_same(path, plan, "an unfinished build", layout.changeable)


@contextlib.contextmanager
def join_workspace(
    directory: Path, plan: dict[str, Any], part: int, layout: OutputLayout = SHARDS
) -> Iterator[Workspace]:
    """Take one part of a build that was prepared; other parts may be at work at the same time.

    Raises UserError if there is no such build, or another process has taken this part.
    """
    work = directory / WORK_DIR
    if not (work / PLAN_NAME).is_file():
        raise UserError(f"--output {directory}: no build was prepared here; leave --part out, or submit it")
    with open(work / "lock", "a") as lock, open(work / f"part-{part:06d}.lock", "a") as own:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--output {directory}: another build is writing it") from None
        _refuse_unless_same(work / PLAN_NAME, plan, "an unfinished build")
        yield Workspace(directory, layout)


def unfinished(output: str, error: OSError) -> UserError:
    """The message for a build that a machine error ends."""
    again = "" if error.errno == errno.ENAMETOOLONG else "; run the same command again to go on"
    return UserError(f"--output {output}: {machine_error(error) or error}{again}")


def _check_foreign(directory: Path, layout: OutputLayout) -> None:
    if directory.is_file():
        raise UserError(f"--output {directory}: is a file; give a new or empty directory")
    if not directory.is_dir():
        return
    names = set(os.listdir(directory))
    foreign = sorted(
        name
        for name in names - layout.names
        if not layout.pattern.fullmatch(name) and not fnmatch(name, TEMPORARIES)
    )
    if foreign or (names and WORK_DIR not in names):
        example = foreign[0] if foreign else sorted(names)[0]
        raise UserError(
            f"--output {directory}: holds something else ({example}); give a new or empty directory"
        )


def _refuse_unless_same(
    path: Path, plan: dict[str, Any], what: str, changeable: frozenset[str] = frozenset()
) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found == plan:
        return
    keys = [key for key in plan if not isinstance(found, dict) or found.get(key) != plan[key]]
    if isinstance(found, dict) and changeable.issuperset(keys) and found.keys() == plan.keys():
        return
    changes = [
        f"{key} was {found[key]!r}, now {plan[key]!r}"
        for key in keys
        if key in found and key != "inputs_sha256"
    ]
    changes += ["the input files or their times have changed"] if "inputs_sha256" in keys else []
    remedy = (
        "give the same arguments, another --output, or --restart" if "un" in what else "give another --output"
    )
    raise UserError(
        f"{path.parent}: holds {what} of other arguments: {'; '.join(changes) or 'unknown'}; {remedy}"
    )
