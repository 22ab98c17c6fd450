"""`pretrain register CHECKPOINT NAME`: a version of a registered model in MLflow that refers to a checkpoint.

The weights are not uploaded, unless `--weights` asks for it: a version's source is a folder of the run's
artifacts with everything else of the checkpoint, including the manifest with the checksum of each file, and
tags say where the checkpoint is. A server does not accept local paths as a source.
"""

import re
import sys
from pathlib import Path

from data_tools.progress import Progress
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.errors import UserError
from pretrain.redact import holds_secret, one_line, redact
from pretrain.run.folder import RunFolder
from pretrain.tracking.record import real_uri
from pretrain.tracking.registry import ModelVersion, find_version, register_version
from pretrain.tracking.sync import catch_up, told_if_slow

NAME = re.compile(r"[\w.\- ]{1,200}")
"""Names of a registered model that MLflow accepts and that all its stores can search for."""
WEIGHTS = ".safetensors"


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
