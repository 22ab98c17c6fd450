"""What a server does not have yet of a run, in the words of messages."""

from collections.abc import Iterator
from pathlib import Path

from pretrain.run.folder import RunFolder
from pretrain.run.status import Status
from pretrain.tracking.record import Sent, content_mark, state_word


def artifacts(folder: RunFolder) -> Iterator[tuple[Path, Path]]:
    """The files that are sent to a server, each with its path below the artifacts of the MLflow run."""
    root = folder.artifacts
    for path in (folder.config, folder.resolved, *sorted(root.rglob("*"))):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(root) if path.is_relative_to(root) else Path(path.name), path


def owed(folder: RunFolder, sent: Sent, status: Status | None) -> dict[str, str]:
    """Everything in the folder that is not on the server, by name; empty if the server has everything.

    Args:
        folder: of the run.
        sent: what the server has.
        status: the run's last report.
    """
    found = {**_bytes(folder.metrics, sent.offset), **owed_results(folder, sent)}
    if status is not None and status.state != "running":
        word = state_word(status)
        if sent.state != word:
            found["state"] = "how the run ended"
        if sent.complete != word:
            found["pictures"] = "its curves as pictures"
    return found


def owed_results(folder: RunFolder, sent: Sent) -> dict[str, str]:
    """As `owed`, for evaluations and files alone."""
    marks = {str(below): _mark(path) for below, path in artifacts(folder)}
    files = {name: name for name, mark in marks.items() if sent.artifacts.get(name) != mark}
    return {**_bytes(folder.evaluations, sent.evaluations), **files}


def _bytes(path: Path, has: int) -> dict[str, str]:
    size = size_of(path)
    return {path.name: f"{size - has:,} of {size:,} bytes of {path.name}"} if has < size else {}


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def _mark(path: Path) -> str | None:
    try:
        return content_mark(path)
    except FileNotFoundError:  # just being replaced
        return None
