"""MLflow's model registry: whether a version of a model exists, and how to add one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.tracking.server import connect

IDENTITY = ("checkpoint_fingerprint", "weights")
"""Tags by which an existing version is recognised."""


@dataclass(frozen=True)
class ModelVersion:
    """A version to register."""

    name: str
    """Name of the registered model."""
    mlflow_run: str
    folder: str
    """Folder of the run's artifacts with its files."""
    tags: Mapping[str, str]


def find_version(uri: str, version: ModelVersion) -> str | None:
    """The number of a version of the same checkpoint, None if there is none.

    Raises Exception: whatever mlflow raises if a server is down, slow or refuses.
    """
    for found in connect(uri).search_model_versions(f"name = '{version.name}'"):
        if all(found.tags.get(tag) == version.tags[tag] for tag in IDENTITY):
            return str(found.version)
    return None


def register_version(
    uri: str, version: ModelVersion, root: Path, files: Sequence[Path], advance: Callable[[int], None]
) -> str:
    """Upload files below `root`, and register them; `advance` is called with the bytes of each uploaded file.

    Returns:
        The new version's number.

    Raises:
        Exception: as `find_version`.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    for file in files:
        folder = Path(version.folder) / file.relative_to(root).parent
        client.log_artifact(version.mlflow_run, str(file), folder.as_posix())
        advance(file.stat().st_size)
    try:
        client.create_registered_model(version.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"runs:/{version.mlflow_run}/{version.folder}"
    made = client.create_model_version(
        version.name, source, version.mlflow_run, tags=dict(version.tags), await_creation_for=0
    )
    return str(made.version)
