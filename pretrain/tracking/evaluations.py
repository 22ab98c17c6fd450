"""Results of evaluations and pictures: stored in the run folder first, then sent to the run's MLflow run.

They are sent by another process, so that one which occupies a GPU never waits for the import of mlflow.
"""

import logging
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_tools import children
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder, read_yaml
from pretrain.tracking.journal import Journal
from pretrain.tracking.owed import owed_results
from pretrain.tracking.record import read_record

SEND_SECONDS = 60.0
NAME = re.compile(r"[\w.\- :/]{1,250}")
"""Metric names that MLflow accepts."""

log = logging.getLogger(__name__)


def log_evaluation(
    run: str | Path, step: int, metrics: Mapping[str, float], artifacts: Sequence[Path] = ()
) -> bool:
    """Record results of a checkpoint and send them to the run's MLflow run at the checkpoint's step.

    A result that MLflow already has, with the same name, step and value, is not added again.

    Args:
        step: the checkpoint's step.
        artifacts: files that are copied into the run folder and sent too.

    Returns:
        Whether MLflow has them now; if not, a warning says so, and `pretrain sync` sends them later.

    Raises:
        UserError: no run; a metric name that MLflow does not accept; the folder cannot be written.
    """
    record_evaluation(run, step, metrics, artifacts)
    return send_evaluations(run)


def record_evaluation(
    run: str | Path, step: int, metrics: Mapping[str, float], artifacts: Sequence[Path] = ()
) -> None:
    folder = RunFolder(run)
    folder.require_run()
    for name, value in metrics.items():
        if not NAME.fullmatch(name) or not isinstance(value, int | float):
            raise UserError(
                f"metric {name!r} = {value!r}: a name has letters, digits and _-.:/ , a value is a number"
            )
        if not math.isfinite(value):
            log.warning("step %d: %s is %s", step, name, value)
    try:
        for path in artifacts:
            _copy(path, folder.artifacts / f"step-{step:08d}")
        journal = Journal(folder.evaluations)
        journal.append(step, metrics)
        journal.sync()
        journal.close()
    except OSError as error:
        raise UserError(f"{folder.path}: the evaluation cannot be recorded: {error}") from None


def send_evaluations(run: str | Path) -> bool:
    """Send what is recorded; returns whether MLflow has it now, as `log_evaluation`."""
    folder = RunFolder(run)
    if not is_tracked(folder):
        return False
    wanted = _owed(folder)
    problem = upload(folder)
    if problem is None:
        return True
    log.info("the uploader: %s", problem)
    rest = [words for name, words in _owed(folder).items() if name in wanted]
    if not rest:
        return True
    log.warning(
        "MLflow does not have yet: %s (see %s); `pretrain sync %s` sends it",
        ", ".join(rest),
        folder.tracking_log,
        folder.quoted,
    )
    return False


def log_picture(run: str | Path, picture: Path, name: str | None = None) -> bool:
    """Copy a file into the run folder, as artifact `name` (default: its own name), and send it to MLflow.

    Returns and raises as `log_evaluation`.
    """
    folder = RunFolder(run)
    folder.require_run()
    try:
        _copy(picture, folder.artifacts, name)
    except OSError as error:
        raise UserError(f"{folder.path}: {picture} cannot be copied: {error}") from None
    return send_evaluations(run)


def _copy(source: Path, folder: Path, name: str | None = None) -> None:
    target = folder / (name or source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or not source.samefile(target):
        shutil.copy(source, target)


def is_tracked(folder: RunFolder) -> bool:
    """Whether a run's config enables tracking."""
    return bool((read_yaml(folder.resolved).get("tracking") or {}).get("enabled", True))


def upload(folder: RunFolder) -> str | None:
    """Run the uploader for what there is now; returns why it did not send everything, None if it did."""
    command = [sys.executable, "-m", "pretrain.tracking.uploader", str(folder.path), "--once"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        with open(folder.tracking_log, "ab") as output:
            answer = children.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                timeout=SEND_SECONDS,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"exit code {answer.returncode}" if answer.returncode else None


def _owed(folder: RunFolder) -> dict[str, str]:
    """Evaluations and files that the run's own server does not have yet."""
    return owed_results(folder, read_record(folder).own)
