"""One MLflow run on one server: found again by our run's id, and asked what it has before more is sent.

Only this file and `register` import mlflow. Nothing here retries: after an error the caller makes a new
`ServerRun`.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.names import storable
from pretrain.config.database_uri import database_uri
from pretrain.errors import UserError

RUN_TAG = "pretrain.training.session"
NAMES_TAG = "pretrain.metric_names"
GROUPED = "grouped"
"""Value of that tag; an MLflow run without it began when names had no groups, and continues so."""
DIGEST = 16
"""Digits of a fingerprint in a dataset's digest: as many as our commands print; MLflow allows 36."""
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_VALUE = 500
"""Characters of a parameter's value, and of a dataset's name, that every server accepts."""
MAX_NAME = 250
"""Characters of a run's name that every database accepts."""

CLIENT_SETTINGS = {
    # The client's own retries would send a batch again without asking whether it has arrived.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

Point = tuple[str, float, int, int]
"""Metric's name, value, unix milliseconds, step."""


@dataclass(frozen=True)
class Address:
    """The server and the identity of a run on it."""

    uri: str
    experiment: str
    run: str
    """Id of our run."""
    name: str
    started_ms: int
    local_artifacts: Path | None
    """Folder of the artifacts of a new experiment; None: the server decides."""


def connect(uri: str) -> Any:
    """A client that does not retry."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_database(path: Path) -> None:
    """Create an empty database if there is none, atomically.

    MLflow cannot use one whose creation was interrupted. The caller must be the only one to do this.
    """
    if path.exists():
        return
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)
    # A new name each time: MLflow caches what it has opened under a name.
    half_made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    connect(database_uri(half_made)).search_experiments(max_results=1)
    os.replace(half_made, path)


class ServerRun:
    """A connection to the MLflow run of one of our runs; creates the run if there is none, or if `anew`.

    Attributes:
        id: of the MLflow run.
        is_new: whether it was created here.
        is_grouped: whether its metrics have the names that `names` gives them.

    Raises (all methods):
        Exception: whatever mlflow raises if a server is down, slow or refuses.
    """

    def __init__(self, address: Address, mlflow_run: str | None = None, *, anew: bool = False) -> None:
        self._client = connect(address.uri)
        self._address = address
        self.is_new = False
        self.experiment_id = self._find_experiment()
        if anew:  # values of the abandoned course; the server can restore them
            for run in self._runs():
                self._client.delete_run(run.info.run_id)
        self.id = self._find(mlflow_run) or self._create()
        self.is_grouped = self.is_new
        self._known = {} if self.is_new else self._known_steps()

    def _find_experiment(self) -> str:
        name = self._address.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            folder = self._address.local_artifacts
            location = folder.as_uri() if folder else None
            return str(self._client.create_experiment(name, location))
        if experiment.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment: {name!r} was deleted on the server; restore it (`mlflow experiments "
                f"restore --experiment-id {experiment.experiment_id}`) or choose another name"
            )
        return str(experiment.experiment_id)

    def _runs(self) -> list[Any]:
        """All MLflow runs with our id, oldest first."""
        text = f"tags.`{RUN_TAG}` = '{self._address.run}'"
        return list(
            self._client.search_runs(
                [self.experiment_id], text, order_by=["attributes.start_time", "attributes.run_id"]
            )
        )

    def _find(self, mlflow_run: str | None) -> str | None:
        found = [run.info.run_id for run in self._runs()]
        return mlflow_run if mlflow_run in found else next(iter(found), None)

    def _create(self) -> str:
        address = self._address
        self.is_new = True
        tags, name = {RUN_TAG: address.run, NAMES_TAG: GROUPED}, storable(address.name)[:MAX_NAME]
        run = self._client.create_run(self.experiment_id, address.started_ms, tags, run_name=name)
        return str(run.info.run_id)

    def _known_steps(self) -> dict[str, set[int]]:
        data = self._client.get_run(self.id).data
        names = data.metrics
        self.is_grouped = data.tags.get(NAMES_TAG) == GROUPED
        return {name: {m.step for m in self._client.get_metric_history(self.id, name)} for name in names}

    def delete_empty_twins(self) -> None:
        """Delete runs whose creation succeeded on the server after we had given it up."""
        for run in self._runs():
            if run.info.run_id != self.id and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def send_new(self, points: Iterable[Point]) -> int:
        """Send the points whose step the metric does not have yet, in order.

        Returns:
            How many were sent.
        """
        new = [point for point in points if point[3] not in self._known.get(point[0], ())]
        self._send(new)
        return len(new)

    def send_unequal(self, points: Sequence[Point]) -> int:
        """Send the points whose step and value the metric does not have: a result may be measured again.

        Returns:
            How many were sent.
        """
        names = {point[0] for point in points}
        has = {
            (name, _stored(m.value), m.step)
            for name in names
            for m in self._client.get_metric_history(self.id, name)
        }
        new = [point for point in points if (point[0], _stored(point[1]), point[3]) not in has]
        self._send(new)
        return len(new)

    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), MAX_METRICS):
            self._client.log_batch(
                self.id, metrics=[Metric(*point) for point in points[start : start + MAX_METRICS]]
            )

    def send_params(self, params: Mapping[str, str]) -> None:
        """Log parameters once; one that a resume changed keeps its first value and gets a tag."""
        from mlflow.entities import Param, RunTag

        has = {} if self.is_new else dict(self._client.get_run(self.id).data.params)
        short = {
            key: value if len(value) <= MAX_VALUE else value[: MAX_VALUE - 3] + "..."
            for key, value in ((key, storable(value)) for key, value in params.items())
        }
        new = [Param(key, value) for key, value in short.items() if key not in has]
        changed = [
            RunTag(f"changed.{key}", value) for key, value in short.items() if has.get(key, value) != value
        ]
        for start in range(0, max(len(new), len(changed)), MAX_PARAMS):
            part = slice(start, start + MAX_PARAMS)
            self._client.log_batch(self.id, params=new[part], tags=changed[part])

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(key, storable(value)) for key, value in tags.items()])

    def send_datasets(self, datasets: Iterable[Mapping[str, Any]]) -> None:
        """Log what the run reads, from `datasets_of`; datasets that the server already has are not
        duplicated."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for each in datasets:
            counts = {key: value for key, value in each.items() if isinstance(value, int)}
            name = "/".join(Path(each["path"]).parts[-2:])  # shards are often in a folder with this name
            dataset = Dataset(
                name=storable(name)[-MAX_VALUE:],
                digest=each["fingerprint"][:DIGEST],
                source_type="url" if "://" in each["path"] else "local",
                source=json.dumps({"uri": each["path"]}),
                profile=json.dumps(counts) if counts else None,
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", each["context"])]))
        if inputs:
            self._client.log_inputs(self.id, inputs)

    def send_artifact(self, path: Path, folder: str | None) -> None:
        """Store a file, replacing an older one of that name."""
        self._client.log_artifact(self.id, str(path), folder)

    def set_status(self, status: str, ended_ms: int | None) -> None:
        """Set RUNNING (again), SCHEDULED, FINISHED, FAILED or KILLED; the time is for the last three."""
        if ended_ms is None:
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status, ended_ms)


def _stored(value: float) -> str:
    """A value as a database can store it: infinities become the largest number."""
    return repr(max(-sys.float_info.max, min(sys.float_info.max, float(value))))
