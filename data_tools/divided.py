"""A build by partitions, whatever it makes of them: text shards, image shards or clean text.

Each partition is a task of its own whose result is recorded, so that a build can resume.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from data_tools.bad_records import BadRecord, check_skipped
from data_tools.partition import Partition
from data_tools.pool import Report, run_tasks
from data_tools.progress import Progress
from data_tools.workspace import SHARDS, Finished, OutputLayout, Workspace, open_workspace, unfinished


class Options(Protocol):
    """The options that all builds share."""

    @property
    def output(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def max_bad_records(self) -> int: ...
    @property
    def restart(self) -> bool: ...


class PartitionResult(Finished, Protocol):
    """The result of one partition."""

    @property
    def skipped(self) -> tuple[BadRecord, ...]: ...


Result = TypeVar("Result", bound=PartitionResult)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Divided(Generic[Result]):
    """A build of text or images, or a cleaning, seen as partitions."""

    options: Options
    partitions: list[Partition]
    plan: dict[str, Any]
    """What must be equal for the build to be continued."""
    parse: Callable[[bytes], Result]
    """From the JSON of an earlier build; raises ValueError if it is not one."""
    job: Callable[[Partition, Report], Result]
    """Processes a partition and records it as finished; picklable."""
    doing: str = "building shards"
    layout: OutputLayout = SHARDS

    @property
    def output(self) -> Path:
        return Path(self.options.output)

    def run(self, mine: Sequence[Partition], done: Mapping[int, Result]) -> list[Result]:
        """Process those of these partitions that are not done; all results in the order of the partitions."""
        results, most = dict(done), self.options.max_bad_records
        check_skipped(all_skipped(results.values()), most)
        pending = [partition for partition in mine if partition.number not in done]
        in_memory = any(unit.file.url.startswith("memory://") for part in pending for unit in part.units)
        workers = 1 if in_memory else workers_of(self.options)
        with Progress(self.doing, sum(partition.weight for partition in pending), "B") as progress:
            for result in run_tasks(self.job, pending, workers, progress.advance):
                results[result.number] = result
                check_skipped(all_skipped(results.values()), most)
        return [results[partition.number] for partition in mine]

    def whole(
        self, finish: Callable[[Workspace, list[Result]], Made], made: Callable[[Path], Made]
    ) -> tuple[Made, list[Result], int]:
        """Process everything that is not done, then `finish`; for a finished build, return what `made` reads,
        without results.

        The number counts the partitions that were done before. Raises UserError where it cannot be built
        here.
        """
        try:
            with open_workspace(self.output, self.plan, self.options.restart, self.layout) as workspace:
                if workspace is None:
                    return made(self.output), [], len(self.partitions)
                done = workspace.finished(len(self.partitions), self.parse)
                workspace.clean(done)
                results = self.run(self.partitions, done)
                return finish(workspace, results), results, len(done)
        except OSError as error:
            raise unfinished(self.options.output, error) from None


def workers_of(options: Options) -> int:
    """Number of processes; by default one per core that this process may use."""
    return options.workers or len(os.sched_getaffinity(0))


def all_skipped(results: Iterable[PartitionResult]) -> tuple[BadRecord, ...]:
    """The records that all partitions skipped, in the order of the input."""
    ordered = sorted(results, key=lambda result: result.number)
    return tuple(record for result in ordered for record in result.skipped)
