"""The trainer's handle on the uploader: starts it, notices when it dies, and waits for it at the end."""

import contextlib
import logging
import os
import subprocess
import sys
import time

from data_tools import children
from data_tools.children import Child
from pretrain.distributed.secret import VARIABLE as SECRET
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.run.status import read_status
from pretrain.tracking.owed import owed
from pretrain.tracking.record import read_record
from pretrain.tracking.uploader import GAVE_UP

FINISH_SECONDS = 10.0
"""How long the end of a run waits for MLflow; less than srun leaves a rank once others have ended."""
LOOK_INTERVAL = 5.0
MAX_STARTS = 5

log = logging.getLogger(__name__)


class UploaderProcess:
    """The uploader process of one job. No method raises, and none but `finish` waits."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._starts = 0
        self._process: Child | None = None
        self._last_look = time.monotonic()
        self._last_error: str | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id, None if it could not be started."""
        return self._process.pid if self._process else None

    def _start(self) -> None:
        self._starts += 1
        # It must not use a GPU, nor act as a rank. It inherits no descriptor, and so no lock.
        hidden = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", SECRET}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            with open(self._folder.tracking_log, "ab") as output:
                # It must outlive a killed trainer to report the end; it ends with the run (`uploader.py`).
                self._process = children.start_to_outlive(
                    [sys.executable, "-m", "pretrain.tracking.uploader", str(self._folder.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                )
        except OSError as error:
            log.warning("the MLflow uploader cannot be started: %s", error)

    def look(self) -> None:
        """Every few seconds: restart it if it has died, and warn once if the server does not answer."""
        now = time.monotonic()
        if now - self._last_look < LOOK_INTERVAL:
            return
        self._last_look = now
        self._restart_if_dead()
        self._tell_error()

    def _restart_if_dead(self) -> None:
        code = self._process.poll() if self._process else None
        if code in (None, 0, GAVE_UP) or self._starts >= MAX_STARTS:
            return
        log.warning(
            "the MLflow uploader died (exit code %s, see %s); starting it again",
            code,
            self._folder.tracking_log,
        )
        self._start()

    def _tell_error(self) -> None:
        error = read_record(self._folder).own.error
        if error and error != self._last_error:
            log.warning("MLflow does not take the metrics; they wait in %s: %s", self._folder.metrics, error)
        elif self._last_error and not error:
            log.info("MLflow takes the metrics again")
        self._last_error = error

    def finish(self) -> bool:
        """Give the uploader time to send the rest; call it after the final `status.json`.

        Returns:
            Whether everything is in MLflow; if not, a message has said what to do.
        """
        deadline = time.monotonic() + FINISH_SECONDS
        while self._process is not None and time.monotonic() < deadline:
            self._restart_if_dead()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.1)
            if self._process.returncode == 0:
                return True
            is_dead = self._process.returncode is not None
            if self._process.returncode == GAVE_UP or (is_dead and self._starts >= MAX_STARTS):
                break
        return self._tell_rest()

    def _tell_rest(self) -> bool:
        """Report what MLflow does not have; returns whether it has everything, however the uploader ended."""
        sent = read_record(self._folder).own
        try:
            rest = owed(self._folder, sent, read_status(self._folder))
        except (OSError, UserError) as error:
            rest = {"": f"all of it: {error}"}
        if not rest:
            return True
        is_alive = self._process is not None and self._process.returncode is None
        goes_well = is_alive and not sent.error
        log.log(
            logging.INFO if goes_well else logging.WARNING,
            "MLflow does not have yet: %s%s; %s`pretrain sync %s` sends the rest",
            ", ".join(rest.values()),
            f" ({sent.error})" if sent.error else "",
            "sending goes on in the background, and if that is cut off " if is_alive else "",
            self._folder.quoted,
        )
        return False
