"""Which checkpoints are kept, and cleanup after a dead run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_tools.atomic import sync_folder
from pretrain.checkpoint.files import remove, told
from pretrain.checkpoint.layout import (
    checkpoints_folder,
    leftovers,
    set_aside,
    step_of,
    steps_in,
    suspect_since,
)
from pretrain.checkpoint.manifest import read_manifest
from pretrain.errors import IntegrityError


@dataclass(frozen=True)
class Retention:
    """How many checkpoints are kept."""

    keep_last: int
    """Number of newest good checkpoints: complete, and not saved while updates were skipped."""
    keep_every: int | None = None
    """Checkpoints whose step is a multiple of this are kept forever."""


def looks_whole(path: Path) -> bool:
    """The manifest is valid and every file has its size; contents are not read, since this runs at every
    save."""
    try:
        manifest = read_manifest(path)
        return all((path / name).stat().st_size == record.size for name, record in manifest.files.items())
    except (IntegrityError, OSError):
        return False


def retire(
    folder: Path, current: int, keep: Retention, on_event: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Delete what `keep` does not keep, given that the checkpoint of step `current` was just written.

    Returns:
        What could not be deleted, one line each.
    """
    _, failed = _remove_all(_surplus(folder, current, keep), lambda: on_event("during-delete"))
    return failed


@told()
def give_up_after(run_dir: Path | str, step: int) -> list[str]:
    """Delete checkpoints later than `step`, from which the run now takes another course.

    A resume must not jump back to the abandoned course. A save does this by itself before it publishes its
    step; a rollback should do it at once. Nothing is deleted if no complete checkpoint up to `step` exists.

    Returns:
        What was deleted or could not be, one line each.

    Raises:
        UserError: the folder cannot be read.
    """
    return drop_later(checkpoints_folder(run_dir), step)


def drop_later(folder: Path, step: int) -> list[str]:
    """As `give_up_after`, but raises OSError, which fails a save and not the run."""
    steps = steps_in(folder)
    later = [path for at, path in steps.items() if at > step]
    if not later or not any(looks_whole(path) for at, path in steps.items() if at <= step):
        return []
    removed, failed = _remove_all(later)
    return [
        f"deleted {path}: the run went on from before it and is now at step {step}" for path in removed
    ] + failed


@told()
def trim(run_dir: Path | str, good: int, keep: Retention) -> list[str]:
    """Apply retention when a run resumes from the checkpoint of step `good`, which was verified.

    A kill between the publication of a checkpoint and the deletion of its predecessors leaves one too many;
    many such kills in a row would fill the disk. Later checkpoints, which were passed over, stay until the
    next save.

    Returns:
        What was deleted or could not be, one line each.
    """
    removed, failed = _remove_all(_surplus(checkpoints_folder(run_dir), good, keep))
    return [f"deleted {path}: more than checkpoint.keep_last: {keep.keep_last}" for path in removed] + failed


def _remove_all(
    paths: list[Path], on_trash: Callable[[], None] = lambda: None
) -> tuple[list[Path], list[str]]:
    removed, failed = [], []
    for path in paths:
        try:
            remove(path, on_trash)
            removed.append(path)
        except OSError as error:
            failed.append(f"could not delete {path}: {error.strerror or error}")
    return removed, failed


def _surplus(folder: Path, newest: int, keep: Retention) -> list[Path]:
    """Checkpoints before the newest complete one, of step `newest`, that `keep` does not keep.

    One that is damaged or was saved while updates were skipped does not count as kept; of the latter only the
    newest is of any use.
    """
    kept, surplus = 0, []
    for step, path in steps_in(folder).items():
        if step > newest:
            continue
        is_suspect = suspect_since(path) is not None
        if step == newest or (kept < keep.keep_last and not is_suspect):
            kept += not is_suspect and looks_whole(path)
        elif not (keep.keep_every and step % keep.keep_every == 0):
            surplus.append(path)
    return surplus


@told()
def clean(run_dir: Path | str) -> list[str]:
    """Repair what a killed save or deletion left in a run's checkpoints; call it first, holding the run's
    lock.

    A checkpoint that was set aside for its successor, which never arrived, gets its name back.

    Returns:
        What was done, one line each.

    Raises:
        UserError: the file system does not allow it.
    """
    folder = checkpoints_folder(run_dir)
    messages = []
    for path in set_aside(folder):
        name = path.name.removeprefix(".old-").rsplit("-", 1)[0]
        target = folder / name
        if step_of(name) is not None and not target.exists():
            path.rename(target)
            sync_folder(folder)
            messages.append(f"restored {target}: a save was killed while it replaced it")
        else:
            remove(path)
    for path in leftovers(folder):
        remove(path)
        messages.append(f"removed {path}: left by a save or a deletion that was killed")
    return messages
