"""A run on disk: the name of everything in a run folder, and who may write into it.

RUN/config.yaml  config.resolved.yaml  status.json  metrics.jsonl  logs/  heartbeat/  checkpoints/  lock
RUN/tracking.json  evaluations.jsonl  system.jsonl  artifacts/  profile/  mlflow.db  mlartifacts/
"""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_tools.bounded import SMALL_FILE, UnfitFileError, read_bytes
from data_tools.names import storable
from pretrain.compatible import changed_keys, compatible
from pretrain.errors import UserError, named
from pretrain.lock import RunLock
from pretrain.origin import require_same_origin
from pretrain.tracking.redact import opener_for

SOURCE = "model.init_from"
FOLDERS = ("logs", "heartbeat", "checkpoints", "artifacts")
ALLOWED_BEFORE_A_RUN = {
    "lock",
    "slurm",
    "config.yaml",
    *FOLDERS,
}
"""What may lie in a folder that is no run yet: a job script's output, or what a crash in
`create_or_open` left, `_HALF_WRITTEN` among it."""
_HALF_WRITTEN = re.compile(r"\.config(\.resolved)?\.yaml(\.[0-9a-f]{8})?\.tmp")


@dataclass(frozen=True)
class Opened:
    """A run folder that this process may write."""

    lock: RunLock
    is_new: bool
    changes: dict[str, tuple[object, object]]
    """Keys that a resume changed, all of them legal, with the old and the new value."""
    accept: Callable[[], None]
    """Writes the configs of a resume; call it once nothing can refuse the job any more."""


@dataclass(frozen=True)
class RunFolder:
    """Names in a run folder."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path).expanduser().absolute())

    @property
    def config(self) -> Path:
        """The config as its user wrote it."""
        return self.path / "config.yaml"

    @property
    def resolved(self) -> Path:
        """The config with every key; written last, so its presence marks a run."""
        return self.path / "config.resolved.yaml"

    @property
    def status(self) -> Path:
        """How the run is or ended (`pretrain.status`)."""
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        """The journal: one JSON object a line (`pretrain.tracking.journal`)."""
        return self.path / "metrics.jsonl"

    @property
    def system(self) -> Path:
        """How busy the machine was (`pretrain.tracking.system`)."""
        return self.path / "system.jsonl"

    @property
    def evaluations(self) -> Path:
        """Results of evaluations, in the journal's format (`pretrain.tracking.evaluations`)."""
        return self.path / "evaluations.jsonl"

    @property
    def tracking(self) -> Path:
        """What the uploader has sent where."""
        return self.path / "tracking.json"

    @property
    def logs(self) -> Path:
        """Folder of the ranks' logs and the uploader's."""
        return self.path / "logs"

    @property
    def heartbeat(self) -> Path:
        """Folder of the ranks' heartbeats."""
        return self.path / "heartbeat"

    @property
    def profile(self) -> Path:
        """Folder of traces and of the tables made of them (`pretrain.profiling`)."""
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Folder of loss curves, samples and other files that MLflow gets."""
        return self.path / "artifacts"

    @property
    def lock(self) -> Path:
        """File whose kernel lock rank 0 holds."""
        return self.path / "lock"

    @property
    def tracking_lock(self) -> Path:
        """File whose kernel lock the one uploader of this run holds."""
        return self.logs / "tracking.lock"

    @property
    def tracking_log(self) -> Path:
        """The uploader's log."""
        return self.logs / "tracking.log"

    @property
    def database(self) -> Path:
        """MLflow's database where no tracking URI is set."""
        return self.path / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's artifacts where no tracking URI is set."""
        return self.path / "mlartifacts"

    @property
    def loss_curve(self) -> Path:
        """The picture of the loss curve."""
        return self.artifacts / "loss.png"

    @property
    def accuracy_curves(self) -> Path:
        """The picture of the accuracies, for models that have any."""
        return self.artifacts / "accuracy.png"

    def rank_log(self, rank: int) -> Path:
        """Log of one rank."""
        return self.logs / f"rank-{rank:04d}.log"

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return self.resolved.is_file()

    def require_run(self) -> None:
        """Refuse a folder that is no run.

        Raises:
            UserError: it is not there, or holds no run.
        """
        if not self.is_run:
            what = (
                "is not a run folder: it has no config.resolved.yaml"
                if self.path.exists()
                else "does not exist"
            )
            raise UserError(f"{self.path} {what}")

    def create_or_open(self, config_text: str, resolved_text: str, resume: str = "auto") -> Opened:
        """Lock the folder, make sure that it is new or holds this run, and write the configs into it.

        Args:
            config_text: the config as its user wrote it.
            resolved_text: the config with every key, as YAML.
            resume: `run.resume`; "never" refuses a folder with checkpoints.

        Raises:
            UserError: no permission; a file in the way; other things in the folder; another job is writing
                it; another run in it (names the keys and both values).
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
                f"run.dir: {self.path} holds no run but other things "
                f"({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)}); choose a new or an empty folder"
            )

    @property
    def _begun(self) -> bool:
        """Whether its run binds the next job to its config.

        A job that ended before its first step, on a misspelt path perhaps, binds nobody.
        """
        saved = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return self.is_run and (self.status.is_file() or saved)

    def misfits(self, resolved_text: str) -> list[str]:
        """Why the run that is in the folder may not go on with a config; none if it may, or if there is none.

        Args:
            resolved_text: the config with every key, as YAML.
        """
        names = [path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*")]
        saved = [int(name) for name in names if name.isdecimal()]
        old = read_yaml(self.resolved) if self._begun else None
        return compatible(old, yaml.safe_load(resolved_text), saved) if old is not None else []

    def require_fit(self, resolved_text: str, resume: str) -> dict[str, tuple[object, object]]:
        """Refuse a folder that a run with this config may not go on in; writes nothing.

        Args:
            resolved_text: the config with every key, as YAML.
            resume: `run.resume`; "never" refuses a folder with checkpoints.

        Returns:
            The keys that differ from those of the run that is there, with both values.

        Raises:
            UserError: other things are in it, or another run (names the keys and both values).
        """
        self._refuse_foreign_content()
        changes: dict[str, tuple[object, object]] = {}
        if self._begun:
            if problems := self.misfits(resolved_text):
                raise UserError(
                    f"run.dir: {self.path} holds another run; it differs where that matters:\n  "
                    + "\n  ".join(problems)
                    + "\nChoose another run.dir, or set these keys back."
                )
            changes = changed_keys(read_yaml(self.resolved), yaml.safe_load(resolved_text))
            if SOURCE in changes and self.checkpoints.is_dir() and any(self.checkpoints.glob("step-*")):
                require_same_origin(self.path, changes[SOURCE][1])
        if resume == "never" and any(self.checkpoints.glob("step-*")):
            raise UserError(
                f"run.resume: never, but {self.checkpoints} holds checkpoints; "
                "choose another run.dir, or delete them"
            )
        return changes

    def _open_locked(self, lock: RunLock, config_text: str, resolved_text: str, resume: str) -> Opened:
        changes, is_new, begun = self.require_fit(resolved_text, resume), not self.is_run, self._begun
        for file in (self.config, self.resolved, self.status):
            for half_written in self.path.glob(f".{file.name}.*.tmp"):  # by a job that was killed
                half_written.unlink(missing_ok=True)

        def accept() -> None:
            write_atomically(self.config, config_text)
            write_atomically(self.resolved, resolved_text)

        if not begun:
            accept()
        return Opened(lock, is_new, changes, accept if begun else lambda: None)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of a run.

    Raises:
        UserError: it is no YAML mapping.
    """
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
    """Replace a file by new text: a reader, or a crash, sees the old or the new, never a part.

    Nor a mixture of two: when a job ends, several ranks may say so at once. One with a secret in it is for
    its owner alone. A byte of a file's name that is no UTF-8 is spelt out, as JSON does.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with named(path), open(temporary, "x", encoding="utf-8", opener=opener_for(text)) as file:
            file.write(storable(text))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
