"""`pretrain register CHECKPOINT NAME`: a version of a registered model in MLflow that refers to a checkpoint.

The weights are not uploaded, unless `--weights` asks for it: a version's source is a folder of the run's
artifacts with everything else of the checkpoint, including the manifest with the checksum of each file, and
tags say where the checkpoint is. A server does not accept local paths as a source.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.progress import Progress
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.errors import UserError
from pretrain.redact import holds_secret, one_line, redact
from pretrain.run.folder import RunFolder
from pretrain.tracking.record import real_uri
from pretrain.tracking.server import connect
from pretrain.tracking.sync import catch_up, told_if_slow

NAME = re.compile(r"[\w.\- ]{1,200}")
"""Names of a registered model that MLflow accepts and that all its stores can search for."""
WEIGHTS = ".safetensors"
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


def register_command(checkpoint: str, name: str, uri: str | None = None, *, weights: bool = False) -> None:
    """Register a checkpoint, after sending what MLflow lacks of its run; doing it twice adds nothing twice.

    Args:
        checkpoint: run directory (its newest good checkpoint) or one step folder in it.
        name: of the registered model, which is created if it does not exist.
        uri: another server than the run's own; None: its own.
        weights: whether its tensors are uploaded too.

    Raises:
        UserError: the name is invalid, the checkpoint is not in a run, the server does not answer, a file
            that is to be uploaded contains a password.
        IntegrityError: the checkpoint is damaged.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r}: a registered model's name has letters, digits, spaces and _-. only")
    path = resolve(checkpoint, lambda line: print(line, file=sys.stderr))
    run = RunFolder(path.parent.parent)
    run.require_run()
    opened = open_checkpoint(path)
    files = [file for file in _files(path) if weights or file.suffix != WEIGHTS]
    _require_no_secrets(files)
    sent, _ = catch_up(run, uri)
    assert sent.mlflow_run is not None
    server = real_uri(run, uri or sent.uri)
    version = ModelVersion(name, sent.mlflow_run, f"checkpoints/{path.name}", _tags(opened, weights=weights))
    try:
        with told_if_slow(f"MLflow at {redact(server)}"):
            number = find_version(server, version)
        if number is None:
            with Progress("uploading", sum(file.stat().st_size for file in files), "B") as progress:
                number = register_version(server, version, path, files, progress.advance)
            what = "registered"
        else:
            what = "was registered before"
    except Exception as error:  # a server, its client or the network may raise anything
        raise UserError(f"MLflow at {redact(server)} does not register it: {one_line(error)}") from None
    print(f"{path}: {what} as version {number} of {name!r} at {redact(server)}")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _require_no_secrets(files: list[Path]) -> None:
    """Refuse files with passwords: they cannot be redacted, since their checksums are in the manifest."""
    for file in files:
        if file.suffix == ".yaml" and holds_secret(file.read_text()):
            raise UserError(
                f"{file}: holds a password, which the registry would show; give it to MLflow by "
                "MLFLOW_TRACKING_PASSWORD instead"
            )


def _tags(opened: Checkpoint, *, weights: bool) -> dict[str, str]:
    """Tags that distinguish a version from others."""
    facts = {
        "checkpoint": str(opened.path.absolute()),
        "checkpoint_fingerprint": opened.fingerprint,
        "step": str(opened.step),
        "weights": "uploaded" if weights else "in the run folder",
    }
    tokenizer = opened.state.get("tokenizer_fingerprint")
    return facts | ({"tokenizer_fingerprint": tokenizer} if tokenizer else {})


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
