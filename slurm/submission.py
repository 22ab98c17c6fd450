"""The files of a submission: RUN/slurm/0001/ with the script, the config, the logs and the attempts.

RUN/slurm/NNNN/job.sbatch  config.yaml  job.json  job-ID.log  attempts.jsonl  preflight/ RUN/slurm/exclude
nodes found bad, one a line with the reason; delete a line to use it again
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_tools.bounded import SMALL_FILE, UnfitFileError, read_bytes, read_json
from data_tools.errors import UserError, named
from data_tools.typed import Natural, Seconds, parse

Phase = Literal["start", "preflight", "train"]
FOLDER = "slurm"
SCRIPT = "job.sbatch"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Attempt:
    """One job of a submission, or one restart of it."""

    job: str
    restart: Natural
    nodes: tuple[str, ...]
    step: Natural
    """Step of the newest checkpoint when it began."""
    began: Seconds
    """Unix time."""
    ended: Seconds | None = None
    """None: it is still running, or ended without a report."""
    phase: Phase = "train"
    """What it was doing when it ended."""
    code: int | None = None
    """Exit code of that phase."""
    verdict: str | None = None
    """What followed and why, in words."""


class Submission:
    """One submission's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Path:
        return self.path.parent.parent

    @property
    def script(self) -> Path:
        return self.path / SCRIPT

    @property
    def config(self) -> Path:
        """The config that the job trains with, with every key."""
        return self.path / CONFIG

    @property
    def preflight(self) -> Path:
        """Folder of what the ranks found before training, with a folder for each attempt."""
        return self.path / "preflight"

    @property
    def job(self) -> str | None:
        """Id of the job; None if it was not submitted."""
        try:
            return str(read_json(self.path / "job.json")["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def sent(self, job: str) -> None:
        path = self.path / "job.json"
        with named(path):
            path.write_text(json.dumps({"job": job, "time": time.time()}) + "\n")

    @property
    def is_cancelled(self) -> bool:
        """Whether its user has cancelled it."""
        return (self.path / "cancelled").exists()

    def cancel(self) -> None:
        (self.path / "cancelled").touch()

    def logs(self) -> list[Path]:
        """Logs of its jobs, oldest first."""
        return sorted(self.path.glob("job-*.log"), key=lambda path: path.stat().st_mtime)

    def attempts(self) -> list[Attempt]:
        found: list[Attempt] = []
        for attempt in self._lines():
            if found and (found[-1].job, found[-1].restart) == (attempt.job, attempt.restart):
                found.pop()
            found.append(attempt)
        return found

    def note(self, attempt: Attempt) -> None:
        """Record how an attempt began, or, on a second call, how it ended."""
        path = self.path / "attempts.jsonl"
        with named(path), open(path, "a") as file:
            file.write(json.dumps(asdict(attempt)) + "\n")

    def _lines(self) -> Iterator[Attempt]:
        for line in _read(self.path / "attempts.jsonl").split(b"\n"):
            with suppress(ValueError):  # torn by a kill
                yield parse(Attempt, line)


def submissions(run: Path) -> list[Submission]:
    """All submissions of a run, oldest first."""
    found = [path for path in (run / FOLDER).glob("*") if re.fullmatch(r"\d{4,}", path.name)]
    return [Submission(path) for path in sorted(found, key=lambda path: int(path.name))]


def new_submission(run: Path) -> Submission:
    """Create the folder of a run's next submission. Raises UserError: it cannot be created."""
    return Submission(new_folder(run / FOLDER, ""))


def new_folder(parent: Path, prefix: str) -> Path:
    """Create the next numbered folder: 0001, 0002 and so on, after a prefix.

    Raises UserError: it cannot be created.
    """
    found = (re.fullmatch(rf"{re.escape(prefix)}(\d{{4,}})", path.name) for path in parent.glob("*"))
    number = max((int(match[1]) for match in found if match), default=0) + 1
    path = parent / f"{prefix}{number:04d}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write {parent}: {error.strerror} ({error.filename})") from None
    return path


def bad_nodes(run: Path) -> dict[str, str]:
    text = _read(run / FOLDER / "exclude").decode(errors="replace")
    return {name: reason for name, _, reason in (line.partition(" ") for line in text.splitlines()) if name}


def _read(path: Path) -> bytes:
    """The content of a file, b"" if there is none. Raises UserError for one that must not be read."""
    try:
        return read_bytes(path, SMALL_FILE)
    except FileNotFoundError:
        return b""
    except UnfitFileError as error:
        raise UserError(f"{error.filename} {error.strerror}") from None


def exclude_nodes(run: Path, reasons: dict[str, str]) -> None:
    known = bad_nodes(run)
    path = run / FOLDER / "exclude"
    with named(path), open(path, "a") as file:
        for name, reason in reasons.items():
            if name not in known:
                file.write(f"{name} {' '.join(reason.split())}\n")


def has_checkpoint(run: Path) -> bool:
    """Whether a checkpoint was completed; it is not verified."""
    return any(run.glob("checkpoints/step-*/manifest.json"))


def saved_step(run: Path) -> int:
    """Step of the newest completed checkpoint, 0 if there is none; it is not verified."""
    found = (
        re.fullmatch(r"step-(\d+)", path.parent.name) for path in run.glob("checkpoints/step-*/manifest.json")
    )
    return max((int(match[1]) for match in found if match), default=0)
