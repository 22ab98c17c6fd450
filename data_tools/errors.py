"""Errors that a user can cause; each carries the exit code of the process and a message without traceback."""


class UserError(Exception):
    """Bad usage, config or input. The message names the file, the key or the shard, the offending
    value and the nearest right one."""

    exit_code = 2


class IntegrityError(UserError):
    """A shard or a checkpoint is not what was written: missing, truncated, flipped or foreign."""

    exit_code = 3
