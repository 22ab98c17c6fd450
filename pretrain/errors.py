"""The ways in which a command ends early, one exit code each; `pretrain.cli.main` turns them into one
message."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from data_tools.errors import IntegrityError, UserError, machine_error, named

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


class HealthError(UserError):
    """Training was stopped by a health check: NaN, spike or hang."""

    exit_code = 4


class OutputError(UserError):
    """A file beside the checkpoints cannot be written; all ranks raise it together."""


class StoppedEarly(UserError):
    """Training stopped on a signal, with a checkpoint saved; a launcher may requeue it."""

    exit_code = 75


@contextmanager
def may_be_missing(*, unless: bool) -> Iterator[None]:
    """Write a file beside the checkpoints: a full disk costs the file and not the run.

    Raises OSError: it cannot be written, and `unless`: no later file replaces it.
    """
    try:
        yield
    except OSError as error:
        if unless or machine_error(error) is None:
            raise
        log.warning("%s; the run goes on without this file", machine_error(error))
