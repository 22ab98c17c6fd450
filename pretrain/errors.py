"""The ways a command ends early, one exit code each; `pretrain.cli.main` turns them into one message."""

from data_tools.errors import IntegrityError, UserError

__all__ = ["INTERRUPTED", "HealthError", "IntegrityError", "StoppedEarly", "UserError"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class HealthError(UserError):
    """Training was stopped by a health verdict: NaN, spike or hang."""

    exit_code = 4


class StoppedEarly(UserError):
    """Training stopped on a signal, with a checkpoint saved; a launcher may requeue it."""

    exit_code = 75
