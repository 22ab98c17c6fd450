"""What has been sent to which server: `tracking.json`, written by the one uploader of a run.

It saves work and informs people; correctness does not depend on it: an uploader asks the server what it has.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from data_tools.bounded import SMALL_FILE, read_bytes
from data_tools.names import is_foreign
from data_tools.typed import Natural, parse
from pretrain.config.database_uri import SQLITE, database_uri, for_mlflow
from pretrain.redact import redact
from pretrain.run.folder import RunFolder, write_atomically
from pretrain.run.status import Status

LOCAL = "run-folder"
"""Recorded instead of the URI of the database in the run folder, which may be moved."""


@dataclass(frozen=True)
class Sent:
    """What one server has of a run."""

    uri: str
    """Tracking URI without credentials, or LOCAL."""
    experiment: str = ""
    experiment_id: str = ""
    mlflow_run: str | None = None
    """Id of the MLflow run."""
    offset: Natural = 0
    """Bytes of metrics.jsonl sent."""
    evaluations: Natural = 0
    """Bytes of evaluations.jsonl sent."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Content mark of each artifact sent, by its name."""
    state: str = ""
    """State of the run as sent, from `state_word`."""
    complete: str = ""
    """Like `state`, set once the pictures of that end are sent too."""
    course: int = 0
    """Course of the run (`Status.course`) that the metrics belong to."""
    error: str | None = None
    """Why the last attempt sent nothing."""


@dataclass(frozen=True)
class Record:
    """All servers that have something of a run. The trainer sends to the first."""

    servers: tuple[Sent, ...] = ()

    @property
    def own(self) -> Sent:
        """The entry of the run's own server, a blank one if nothing has been sent."""
        return next(iter(self.servers), Sent(""))

    def sent_to(self, uri: str) -> Sent:
        """The entry of a server, a blank one if there is none."""
        name = recorded_name(uri)
        return next((sent for sent in self.servers if sent.uri == name), Sent(name))


def state_word(status: Status) -> str:
    """A job's state as it is recorded: `finished (job 3)`."""
    word = "stopped, to go on" if status.goes_on else status.state
    return f"{word} (job {status.job})"


def recorded_name(uri: str) -> str:
    """The form of a URI in the record."""
    return redact(uri)


def read_record(folder: RunFolder) -> Record:
    """The record; empty if there is none or it is damaged, since the server knows what it has."""
    try:
        return parse(Record, read_bytes(folder.tracking, SMALL_FILE))
    except (OSError, ValueError):
        return Record()


def write_sent(folder: RunFolder, sent: Sent, is_own: bool = True) -> None:
    """Put one server's entry into the record; the run's own server comes first.

    Raises OSError: it cannot be written.
    """
    servers = [sent if other.uri == sent.uri else other for other in read_record(folder).servers]
    if sent not in servers:
        servers.append(sent)
    if is_own:
        servers.sort(key=lambda other: other.uri != sent.uri)
    text = json.dumps({"servers": [asdict(each) for each in servers]}, indent=1)
    write_atomically(folder.tracking, text + "\n")


def clear_half_written(folder: RunFolder) -> None:
    """Remove what a process that was killed while writing the record left; the caller is the only writer."""
    for path in folder.path.glob(f".{folder.tracking.name}.*"):
        path.unlink(missing_ok=True)


def choose_uri(configured: str | None, environment: Mapping[str, str], record: Record) -> str:
    """Where a run's metrics are sent: as in the config, else as before, else as in the environment, else
    LOCAL.

    A requeued job must continue in the same MLflow run, even if MLFLOW_TRACKING_URI is no longer set.
    """
    from_environment = environment.get("MLFLOW_TRACKING_URI") or None
    if configured is not None:
        return _absolute(configured, record)
    if not record.servers:
        return _absolute(from_environment, record) if from_environment else LOCAL
    before = record.servers[0].uri
    if from_environment is not None and recorded_name(from_environment) == before:
        return from_environment  # includes its credentials, which are not recorded
    return before


def _absolute(uri: str, record: Record) -> str:
    """Makes a relative sqlite path mean the same file from whichever folder `pretrain sync` is called."""
    match = SQLITE.match(uri)
    path = uri[match.end() :] if match else ""
    if path.startswith(("/", ":memory:", "file:")) or not path:
        return uri
    before = (sent.uri for sent in record.servers if re.match(rf"{SQLITE.pattern}/", sent.uri))
    here = f"{database_uri(Path.cwd())}/{Path(path)}"
    return next((old for old in before if old.endswith(f"/{path}")), here)


def real_uri(folder: RunFolder, uri: str) -> str:
    """The URI to pass to MLflow."""
    return database_uri(folder.database) if uri == LOCAL else for_mlflow(uri)


def unfit(folder: RunFolder, uri: str | None) -> str | None:
    """Why MLflow cannot keep a run in its folder; None if it can, or keeps it elsewhere.

    Args:
        folder: of the run.
        uri: `tracking.uri`.
    """
    if choose_uri(uri, os.environ, read_record(folder)) != LOCAL or not is_foreign(str(folder.path)):
        return None
    return (
        f"{folder.path} is not UTF-8, and MLflow finds no files under such a name; rename the folder, or set "
        "tracking.uri to a server, or tracking.enabled: false"
    )


def page_of(uri: str, sent: Sent) -> str | None:
    """Address of the run's page on a server; None for a database, for which `mlflow ui` has to be started
    first."""
    if not uri.startswith("http"):
        return None
    # MLflow has two sets of pages, and would show the one for agents without this parameter.
    path = f"experiments/{sent.experiment_id}/runs/{sent.mlflow_run}?workflowType=machine_learning"
    return f"{redact(uri).rstrip('/')}/#/{path}"


def content_mark(path: Path) -> str:
    """A text that changes when the file does."""
    facts = path.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def with_error(sent: Sent, error: BaseException | None) -> Sent:
    """The entry with the error of a failure, or without one."""
    text = None if error is None else redact(f"{type(error).__name__}: {error}".splitlines()[0])[:500]
    return replace(sent, error=text)
