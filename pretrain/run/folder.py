"""A run on disk: the path of everything in a run folder, and who may write into it.

RUN/config.yaml  config.resolved.yaml  status.json  metrics.jsonl  logs/  heartbeat/  checkpoints/  lock
RUN/tracking.json  evaluations.jsonl  system.jsonl  artifacts/  profile/  mlflow.db  mlartifacts/
"""

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_tools import atomic
from data_tools.bounded import SMALL_FILE, UnfitFileError, read_bytes
from pretrain.config.resume import changed_keys, compatible
from pretrain.errors import UserError
from pretrain.redact import opener_for
from pretrain.run.lock import RunLock
from pretrain.run.origin import require_same_origin

SOURCE = "model.init_from"
FOLDERS = ("logs", "heartbeat", "checkpoints", "artifacts")
ALLOWED_BEFORE_A_RUN = {
    "lock",
    "slurm",
    "config.yaml",
    *FOLDERS,
}
"""What a folder that is not a run yet may contain: a job script's output, or what a crash in `create_or_open`
left, including `_HALF_WRITTEN`."""
_HALF_WRITTEN = re.compile(r"\.config(\.resolved)?\.yaml(\.[0-9a-f]{8})?\.tmp")


@dataclass(frozen=True)
class Opened:
    """A run folder that this process may write."""

    lock: RunLock
    is_new: bool
    changes: dict[str, tuple[object, object]]
    """Keys that the resume changes, all of them allowed, with the old and the new value."""
    accept: Callable[[], None]
    """Writes the configs of a resume; call it once nothing can refuse the job any more."""


class _Below:
    """A descriptor for a path below `path`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", owner: object) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path).expanduser().absolute())

    config = _Below("config.yaml")
    """The config as its user wrote it."""
    resolved = _Below("config.resolved.yaml")
    """The config with every key; written last, so its presence marks a run."""
    status = _Below("status.json")
    """How the run is or ended (`pretrain.run.status`)."""
    metrics = _Below("metrics.jsonl")
    """The journal: one JSON object a line (`pretrain.tracking.journal`)."""
    system = _Below("system.jsonl")
    """How busy the machine was (`pretrain.tracking.system`)."""
    evaluations = _Below("evaluations.jsonl")
    """Results of evaluations, in the journal's format (`pretrain.tracking.evaluations`)."""
    tracking = _Below("tracking.json")
    """What the uploader has sent where."""
    logs = _Below("logs")
    """Folder of the ranks' logs and the uploader's."""
    heartbeat = _Below("heartbeat")
    profile = _Below("profile")
    """Folder of traces and of the tables made of them (`pretrain.training.profiling`)."""
    checkpoints = _Below("checkpoints")
    artifacts = _Below("artifacts")
    """Folder of loss curves, samples and other files that MLflow gets."""
    lock = _Below("lock")
    """File whose kernel lock rank 0 holds."""
    tracking_lock = _Below("logs/tracking.lock")
    """File whose kernel lock the one uploader of this run holds."""
    tracking_log = _Below("logs/tracking.log")
    database = _Below("mlflow.db")
    """MLflow's database where no tracking URI is set."""
    mlflow_artifacts = _Below("mlartifacts")
    """MLflow's artifacts where no tracking URI is set."""
    loss_curve = _Below("artifacts/loss.png")
    accuracy_curves = _Below("artifacts/accuracy.png")
    """The picture of the accuracies, for models that have any."""

    @property
    def quoted(self) -> str:
        """The path as one word of a shell, for commands in messages."""
        return shlex.quote(str(self.path))

    def rank_log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank:04d}.log"

    @property
    def is_run(self) -> bool:
        return self.resolved.is_file()

    def require_run(self) -> None:
        """Refuse a folder that is not a run. Raises UserError: it does not exist, or has no run."""
        if not self.is_run:
            what = (
                "is not a run folder: it has no config.resolved.yaml"
                if self.path.exists()
                else "does not exist"
            )
            raise UserError(f"{self.path} {what}")

    def create_or_open(self, config_text: str, resolved_text: str, resume: str = "auto") -> Opened:
        """Lock the folder, check that it is new or belongs to this run, and write the configs into it.

        Args:
            config_text: the config as its user wrote it.
            resolved_text: the config with every key, as YAML.
            resume: `run.resume`; "never" refuses a folder with checkpoints.

        Raises:
            UserError: no permission; a file is in the way; the folder has other content; another job is
                writing it; it belongs to another run (names the keys and both values).
        """
        try:
            self._refuse_foreign_content()
            for name in FOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
            lock = RunLock.acquire(self.lock)
        except OSError as error:
            raise UserError(
                f"cannot write the run folder {self.path}: {error.strerror} ({error.filename})"
            ) from None
        try:
            return self._open_locked(lock, config_text, resolved_text, resume)
        except OSError as error:
            lock.release()
            raise UserError(
                f"cannot write the run folder {self.path}: {error.strerror} ({error.filename})"
            ) from None
        except BaseException:
            lock.release()
            raise

    def _refuse_foreign_content(self) -> None:
        if not self.path.exists() or self.is_run:
            return
        foreign = sorted(
            name
            for name in set(os.listdir(self.path)) - ALLOWED_BEFORE_A_RUN
            if not _HALF_WRITTEN.fullmatch(name)
        )
        if self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
            foreign.append("checkpoints of a run whose config.resolved.yaml is gone")
        if foreign:
            raise UserError(
                f"{self.path} holds other files but no run "
                f"({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}); choose a new or an empty folder",
                "run.dir",
            )

    @property
    def _begun(self) -> bool:
        """Whether its run binds the next job to its config.

        A job that ended before its first step, on a misspelt path perhaps, does not.
        """
        saved = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return self.is_run and (self.status.is_file() or saved)

    def misfits(self, resolved_text: str) -> list[str]:
        """Why the run in the folder cannot resume with a config; empty if it can, or if there is no run.

        Args:
            resolved_text: the config with every key, as YAML.
        """
        names = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        saved = [int(name) for name in names if name.isdecimal()]
        old = read_yaml(self.resolved) if self._begun else None
        return compatible(old, yaml.safe_load(resolved_text), saved) if old is not None else []

    def require_fit(self, resolved_text: str, resume: str) -> dict[str, tuple[object, object]]:
        """Refuse a folder in which a run with this config cannot resume; writes nothing.

        Args:
            resolved_text: the config with every key, as YAML.
            resume: `run.resume`; "never" refuses a folder with checkpoints.

        Returns:
            The keys that differ from those of the existing run, with both values.

        Raises:
            UserError: it has other content, or another run (names the keys and both values).
        """
        self._refuse_foreign_content()
        changes: dict[str, tuple[object, object]] = {}
        if self._begun:
            if problems := self.misfits(resolved_text):
                raise UserError(
                    f"{self.path} holds another run; it differs where that matters:\n  "
                    + "\n  ".join(problems)
                    + "\nChoose another run.dir, or set these keys back.",
                    "run.dir",
                )
            changes = changed_keys(read_yaml(self.resolved), yaml.safe_load(resolved_text))
            if SOURCE in changes and self.checkpoints.is_dir() and any(self.checkpoints.glob("step-*")):
                require_same_origin(self.path, changes[SOURCE][1])
        if resume == "never" and any(self.checkpoints.glob("step-*")):
            raise UserError(
                f"never, but {self.checkpoints} holds checkpoints; choose another run.dir, or delete them",
                "run.resume",
            )
        return changes

    def _open_locked(self, lock: RunLock, config_text: str, resolved_text: str, resume: str) -> Opened:
        changes, is_new, begun = self.require_fit(resolved_text, resume), not self.is_run, self._begun
        for file in (self.config, self.resolved, self.status):
            for half_written in self.path.glob(f".{file.name}.*.tmp"):  # left by a job that was killed
                half_written.unlink(missing_ok=True)

        def accept() -> None:
            write_atomically(self.config, config_text)
            write_atomically(self.resolved, resolved_text)

        if not begun:
            accept()
        return Opened(lock, is_new, changes, accept if begun else lambda: None)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of a run. Raises UserError: it is not a YAML mapping."""
    try:
        tree = yaml.safe_load(read_bytes(path, SMALL_FILE).decode())
    except UnfitFileError as error:
        raise UserError(f"{path} {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path} is damaged: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is damaged: it holds no mapping")
    return tree


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by new text atomically; one with a secret in it is for its owner alone."""
    atomic.write_atomically(path, text, opener=opener_for(text))
