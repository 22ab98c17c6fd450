"""Sends the content of a run folder to MLflow: parameters, metrics, evaluations, artifacts, and how it ended.

One attempt, in one thread, without retries: `uploader` and `sync` decide when to try again.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pretrain.config.resume import flatten
from pretrain.errors import UserError
from pretrain.redact import redact
from pretrain.run.folder import RunFolder, read_yaml
from pretrain.run.status import Status, actual_status
from pretrain.tracking.journal import Entry, Follower
from pretrain.tracking.names import Naming, as_it_is, of_evaluation, of_journal
from pretrain.tracking.owed import artifacts
from pretrain.tracking.plot import plot_accuracy_curves, plot_loss_curve
from pretrain.tracking.record import (
    LOCAL,
    choose_uri,
    clear_half_written,
    content_mark,
    page_of,
    read_record,
    real_uri,
    state_word,
    with_error,
    write_sent,
)
from pretrain.tracking.server import Address, Point, ServerRun, make_database

MLFLOW_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "crashed": "FAILED",
    "stopped": "KILLED",
}
"""MLflow's status for the end of a run that will not be resumed."""
TO_GO_ON = "SCHEDULED"
"""Status for one that will: a clock on MLflow's pages, like RUNNING; FAILED and KILLED are crossed out in
red."""

MLFLOW_FACTS = {"git_commit": "mlflow.source.git.commit", "user": "mlflow.user"}
"""Facts for which a run's page in MLflow has a field."""

log = logging.getLogger(__name__)


class Sender:
    """Brings one server up to date with one run folder. The caller holds `folder.tracking_lock`.

    Args:
        uri: tracking URI; None: the run's own (`record.choose_uri`).

    Raises (constructor):
        UserError: the folder's config is damaged.
    """

    def __init__(self, folder: RunFolder, uri: str | None = None) -> None:
        self.folder = folder
        self._config = read_yaml(folder.resolved)
        self._settings: dict[str, Any] = self._config.get("tracking") or {}
        clear_half_written(folder)
        record = read_record(folder)
        self._is_own = uri is None
        self.uri = choose_uri(uri or self._settings.get("uri"), os.environ, record)
        self.sent = record.sent_to(self.uri)
        self.values = 0
        """Values of the journal and of evaluations that were sent."""
        self._server: ServerRun | None = None
        self._metrics = Follower(folder.metrics)
        self._system = Follower(folder.system)
        self._evaluations = Follower(folder.evaluations)

    def send(self, on_progress: Callable[[int], None] = lambda done: None) -> bool:
        """Send everything there is.

        Args:
            on_progress: called with the bytes of journal that the server has.

        Returns:
            Whether the run has ended and the server has all of it.

        Raises:
            Exception: whatever mlflow raises. Call `disconnect` before the next attempt.
        """
        status = actual_status(self.folder)  # read before the journal: no line follows a final status
        if status is None:
            raise UserError(f"{self.folder.path}: this run has not started yet, there is nothing to send")
        is_current = self.sent.course == status.course and not self._metrics.was_replaced()
        if self._server is None or not is_current:
            self._connect(status)
        server = self._server
        assert server is not None
        in_journal, in_evaluations = (
            (of_journal, of_evaluation) if server.is_grouped else (as_it_is, as_it_is)
        )
        while entries := self._metrics.read():
            self.values += server.send_new(points(entries, in_journal))
            self._note(offset=self._metrics.offset)
            on_progress(self._metrics.offset)
        while entries := self._system.read():
            server.send_new(points(entries, as_it_is))
        while entries := self._evaluations.read():
            self.values += server.send_unequal(list(points(entries, in_evaluations)))
            self._note(evaluations=self._evaluations.offset)
        ended = status.state != "running"
        # first: this process may be killed together with the job
        if ended and self.sent.state != state_word(status):
            self._send_end(server, status)
        if ended:
            self._draw()
        self._send_artifacts(server)
        if ended and self.sent.complete != state_word(status):
            self._note(complete=state_word(status))
            log.info("sent everything; the run %s", state_word(status))
        return ended

    def disconnect(self, error: BaseException) -> None:
        """Drop the connection after an error, and record the error for people."""
        self._server = None
        try:
            self.sent = with_error(self.sent, error)
            write_sent(self.folder, self.sent, self._is_own)
        except OSError as problem:
            log.warning("%s cannot be written: %s", self.folder.tracking, problem)

    def _connect(self, status: Status) -> None:
        address = Address(
            uri=real_uri(self.folder, self.uri),
            experiment=self._settings.get("experiment") or "pretrain",
            run=status.run,
            name=self.folder.path.name,
            started_ms=int(status.started * 1000),
            local_artifacts=self.folder.mlflow_artifacts if self.uri == LOCAL else None,
        )
        if self.uri == LOCAL:
            make_database(self.folder.database)
        # Servers cannot delete values, so a run that went back on another course gets a new MLflow run.
        server = ServerRun(address, self.sent.mlflow_run, anew=self.sent.course != status.course)
        if server.id != self.sent.mlflow_run:
            self.sent = replace(self.sent, mlflow_run=server.id, evaluations=0, artifacts={})
        experiment = {"experiment": address.experiment, "experiment_id": server.experiment_id}
        self._note(**experiment, offset=0, state="", complete="", course=status.course)
        for follower in (self._metrics, self._system, self._evaluations):
            follower.close()
        self._metrics.offset, self._system.offset = 0, 0
        self._evaluations.offset = self.sent.evaluations
        if not server.is_new and status.state == "running":
            server.set_status("RUNNING", None)
        server.send_tags(_tags(status))
        server.send_params({key: redact(_text(value)) for key, value in flatten(self._config).items()})
        server.send_datasets(status.datasets)
        self._server = server
        if not server.is_grouped:
            log.info("MLflow run %s began without groups of metrics, and goes on with those names", server.id)
        where = page_of(address.uri, self.sent) or redact(address.uri)
        log.info("MLflow run %s in experiment %r: %s", server.id, address.experiment, where)

    def _send_artifacts(self, server: ServerRun) -> None:
        for below, path in artifacts(self.folder):
            mark = content_mark(path)
            if self.sent.artifacts.get(str(below)) == mark:
                continue
            parent = str(below.parent) if below.parent != Path(".") else None
            if path.suffix in (".yaml", ".json"):
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder) / path.name
                    copy.write_text(redact(path.read_text()))
                    server.send_artifact(copy, parent)
            else:
                server.send_artifact(path, parent)
            self._note(artifacts={**self.sent.artifacts, str(below): mark})

    def _draw(self) -> None:
        """Draw the curves, unless the picture of the loss is newer than the journal."""
        journal, picture = self.folder.metrics, self.folder.loss_curve
        if not journal.exists():
            return
        if picture.exists() and picture.stat().st_mtime_ns > journal.stat().st_mtime_ns:
            return
        title = self.folder.path.name
        plot_accuracy_curves(journal, self.folder.accuracy_curves, title)
        plot_loss_curve(journal, picture, title)

    def _send_end(self, server: ServerRun, status: Status) -> None:
        server.delete_empty_twins()
        server.send_tags(_tags(status))
        if status.goes_on:
            server.set_status(TO_GO_ON, None)
        else:
            server.set_status(MLFLOW_STATUS[status.state], int(status.time * 1000))
        self._note(state=state_word(status))

    def _note(self, **changes: Any) -> None:
        self.sent = replace(self.sent, **changes, error=None)
        write_sent(self.folder, self.sent, self._is_own)


def points(entries: Iterable[Entry], naming: Naming) -> Iterable[Point]:
    """Every number of journal lines for MLflow, with the line's time, so that a server can detect a
    repetition."""
    for entry in entries:
        when = int(entry.get("time", 0.0) * 1000)
        for name, value in entry.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                yield naming(name), float(value), when, int(entry["step"])


def _tags(status: Status) -> dict[str, str]:
    known = {MLFLOW_FACTS[name]: value for name, value in status.facts.items() if name in MLFLOW_FACTS}
    end = {
        "reason": redact(status.reason or ""),
        "exit_code": "" if status.exit_code is None else str(status.exit_code),
    }
    if status.job == 1:  # no value of an earlier job needs to be cleared
        end = {name: value for name, value in end.items() if value}
    return {
        **status.facts,
        **known,
        "mlflow.source.name": "pretrain train",
        "state": status.state,
        **end,
        "jobs": str(status.job),
    }


def _text(value: object) -> str:
    """A value as YAML writes it."""
    if isinstance(value, str):
        return value
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")
    )
