"""Finds the checkpoint to resume from: the newest that verifies and was not saved while updates were skipped,
with the reason for each that was passed over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.checkpoint.files import told
from pretrain.checkpoint.layout import (
    CHECKPOINTS,
    LATEST,
    MANIFEST,
    checkpoints_folder,
    set_aside,
    step_of,
    steps_in,
    suspect_since,
)
from pretrain.checkpoint.manifest import CheckFiles, check_files, verify
from pretrain.checkpoint.tensors import foreign
from pretrain.errors import IntegrityError, UserError


@dataclass(frozen=True)
class FoundCheckpoint:
    """The result of a search for a run's newest good checkpoint."""

    path: Path | None
    """The checkpoint; None where the run has none at all."""
    passed_over: list[tuple[Path, str]]
    """Others, newest first, with the reason."""
    suspect: Path | None
    """The newest that verifies, where it was passed over because it was saved while updates were skipped."""


def newest_good(run_dir: Path | str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """`path` and `passed_over` of `find_good`, which says more."""
    found = find_good(run_dir)
    return found.path, found.passed_over


@told()
def find_good(
    run_dir: Path | str, doubted: Mapping[int, str] | None = None, check: CheckFiles = check_files
) -> FoundCheckpoint:
    """The newest good checkpoint of a run: it verifies, and a finite step was taken from its weights.

    `latest` is only a hint for people; what counts is the folders. Call `clean` first if the run is to
    resume. Checkpoints that were saved while updates were skipped are passed over, and so is the one directly
    before the first skipped update: it may contain the cause. If there are no others, the latter is used
    after all, and as a last resort the newest.

    Args:
        doubted: by step, why a checkpoint is to be passed over if there is an earlier one.
        check: reads every byte of a checkpoint's files.

    Raises:
        IntegrityError: there are checkpoints, and none is good. A run must not start over silently.
        UserError: the folder cannot be read.
    """
    folder = checkpoints_folder(run_dir)
    passed_over: list[tuple[Path, str]] = []
    hint = _hint(folder)  # read first: a running job writes it last
    steps = steps_in(folder)
    if hint is not None and step_of(hint) not in steps and hint == _hint(folder):
        passed_over.append((folder / hint, f"does not exist, though {LATEST} names it"))
    doubts, second_best, suspect = dict(doubted or {}), list[Path](), None
    for step, path in steps.items():
        if faults := verify(path, check):
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            passed_over.append((path, f"{faults[0]}{more}"))
            continue
        since = suspect_since(path)
        if since is None and step not in doubts:
            return FoundCheckpoint(path, passed_over, suspect)
        if since is not None:
            doubts[step] = f"was saved while updates were skipped, from step {since} on"
            if suspect is None:  # older ones belong to earlier periods, from which the run recovered
                doubts.setdefault(since - 1, f"may be why its next update, of step {since}, was skipped")
                suspect = path
        else:
            second_best.append(path)
        passed_over.append((path, doubts[step]))
    if second_best or suspect:
        best = second_best[0] if second_best else suspect
        others = [(other, reason) for other, reason in passed_over if other != best]
        return FoundCheckpoint(best, others, suspect if best != suspect else None)
    passed_over += [(path, "was set aside by a save that was killed") for path in set_aside(folder)]
    if passed_over:
        reasons = "".join(f"\n  {path.name}: {reason}" for path, reason in passed_over)
        raise IntegrityError(f"{folder}: no checkpoint is good; to start over, use a new run.dir.{reasons}")
    return FoundCheckpoint(None, [], None)


def _hint(folder: Path) -> str | None:
    """The step name in `latest`, if it holds one."""
    try:
        name = (folder / LATEST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if step_of(name) is not None else None


@told()
def resolve(path: Path | str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The verified checkpoint folder that a CHECKPOINT argument means: a run directory, or one step in it.

    Args:
        path: what the user gave.
        say: called with a line for each newer checkpoint of a run directory that was passed over, and why,
            and for a step that was saved while updates were skipped.

    Raises:
        UserError: there is no such run or step; names those that exist.
        IntegrityError: the checkpoint, or every one of the run, is damaged.
    """
    path = Path(path)
    if path.is_file():
        what = foreign(path) or "is a file"
        raise UserError(f"{path}: {what}; a checkpoint is a run directory or a step-* folder in it")
    if not path.exists():
        raise UserError(f"{path}: does not exist{_nearest(path)}")
    if (path / MANIFEST).exists() or step_of(path.name) is not None:
        if faults := verify(path):
            raise IntegrityError(
                f"{path}: damaged checkpoint:" + "".join(f"\n  {fault}" for fault in faults[:20])
            )
        if since := suspect_since(path):
            say(f"{path} was saved while updates were skipped, from step {since} on")
        return path
    run_dir = path.parent if path.name == CHECKPOINTS else path
    found, passed_over = newest_good(run_dir)
    for other, reason in passed_over:
        say(f"passed over {other.name}: {reason}")
    if found is None:
        raise UserError(
            f"{path}: no checkpoint here; expected {CHECKPOINTS}/step-* as `pretrain train` writes them"
        )
    return found


def _nearest(path: Path) -> str:
    """The steps nearest to a step that does not exist, or the nearest folder that exists."""
    wanted, steps = step_of(path.name), steps_in(path.parent)
    if steps:
        names = ", ".join(str(step) for step in sorted(steps)[-10:])
        near = (
            f"; nearest: {steps[min(steps, key=lambda step: abs(step - wanted))]}"
            if wanted is not None
            else ""
        )
        return f"; {path.parent} holds the steps {names}{near}"
    parent = next((parent for parent in path.parents if parent.is_dir()), None)
    return f" ({parent} does)" if parent else ""
