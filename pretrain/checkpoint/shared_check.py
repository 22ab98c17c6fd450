"""Verifies a checkpoint with the help of all ranks: each reads a part of its files."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.typed import parse
from pretrain.checkpoint.manifest import Fault, check_files
from pretrain.errors import IntegrityError


@dataclass(frozen=True)
class _Part:
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class SharedCheck:
    """A rank's part of the work; on rank 0 also `CheckFiles`, as `over` returns it."""

    rank: int
    size: int

    def work(self, path: str) -> str:
        """Check this rank's part of a checkpoint's files; never raises."""
        try:
            faults = tuple(check_files(Path(path), self.rank, self.size))
        except (IntegrityError, OSError) as error:
            faults = (Fault("", f"cannot be read by rank {self.rank}: {error}"),)
        return json.dumps(asdict(_Part(faults)))

    def over(self, ask: Callable[[str], list[str]]) -> Callable[[Path], list[Fault]]:
        """Checks all files; `ask` has every rank do its part."""

        def check(path: Path) -> list[Fault]:
            return [fault for answer in ask(str(path)) for fault in parse(_Part, answer.encode()).faults]

        return check
