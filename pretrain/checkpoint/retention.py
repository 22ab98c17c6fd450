"""Which checkpoints stay, and what a dead run left behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.files import remove, sync_folder
from pretrain.checkpoint.layout import checkpoints_folder, leftovers, set_aside, step_of, steps_in
from pretrain.checkpoint.manifest import read_manifest
from pretrain.errors import IntegrityError


@dataclass(frozen=True)
class Retention:
    """How many checkpoints stay."""

    keep_last: int
    """Newest whole ones."""
    keep_every: int | None = None
    """Multiples of this stay for ever."""


def looks_whole(path: Path) -> bool:
    """The manifest is sound and every file has its size; contents are not read, this runs at every save."""
    try:
        manifest = read_manifest(path)
        return all((path / name).stat().st_size == record.size for name, record in manifest.files.items())
    except (IntegrityError, OSError):
        return False


def retire(
    folder: Path, current: int, keep: Retention, on_event: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Delete what `keep` does not keep, given that the checkpoint of step `current` was just written and is
    good.

    Later steps belong to a course of the run that was given up (it went on from an earlier checkpoint), and a
    resume must not jump back into it: they go. A damaged checkpoint does not count towards `keep_last`.

    Returns:
        Messages on what is not plain retention: given-up steps, and folders that could not be deleted.
    """
    messages = []
    kept = 1
    for step, path in steps_in(folder).items():
        if step == current:
            continue
        if step < current:
            if kept < keep.keep_last:
                kept += looks_whole(path)
                continue
            if keep.keep_every and step % keep.keep_every == 0:
                continue
        else:
            messages.append(
                f"deleted {path.name}: the run went on from before it and is now at step {current}"
            )
        try:
            remove(path, lambda: on_event("during-delete"))
        except OSError as error:
            messages.append(f"could not delete {path}: {error.strerror or error}")
    return messages


def clean(run_dir: Path | str) -> list[str]:
    """Put right what a killed save or deletion left in a run's checkpoints; call it first, holding the run's
    lock.

    A checkpoint that was set aside for its successor, which never arrived, gets its name back.

    Returns:
        What was done, a line each.
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
