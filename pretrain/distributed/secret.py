"""The secret of a job: whoever knows it is one of its ranks.

A launcher passes it to its ranks in the environment, where other users cannot read it: `pretrain train
--processes N` and the scripts of `pretrain submit` make a new one at every start. Ranks that were started
without one (torchrun, or srun by hand) share the user's own, a file in the home directory that nobody else
may read.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pretrain.errors import UserError

VARIABLE = "PRETRAIN_SECRET"
LEAST_CHARACTERS = 32


def new_secret() -> str:
    """A random secret: 64 hexadecimal digits."""
    return secrets.token_hex(32)


def job_secret(environment: Mapping[str, str]) -> bytes:
    """The secret that this job's ranks share.

    Raises UserError: it is too short, others can read its file, or there can be no file.
    """
    given = environment.get(VARIABLE)
    if given is None:
        return _secret_of_user(_file(environment)).encode()
    if len(given) < LEAST_CHARACTERS:
        raise UserError(
            f"{VARIABLE} has {len(given)} characters; a secret of a job has {LEAST_CHARACTERS} at least: "
            f"export {VARIABLE}=$(openssl rand -hex 32)"
        )
    return given.encode()


def _file(environment: Mapping[str, str]) -> Path:
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "pretrain" / "secret"


def _secret_of_user(path: Path) -> str:
    """The content of the user's file; the first rank creates it atomically."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f".secret.{secrets.token_hex(4)}.tmp")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(new_secret())
            with suppress(FileExistsError):
                os.link(temporary, path)
            temporary.unlink()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise UserError(
                    f"{path}: others may read or have written this secret (owner {found.st_uid}, mode "
                    f"{stat.S_IMODE(found.st_mode):04o}); remove it, the next start makes another one"
                )
            text = file.read()
    except OSError as error:
        raise UserError(
            f"{path}: the ranks' secret cannot be kept here ({error.strerror}); export "
            f"{VARIABLE}=$(openssl rand -hex 32) where all ranks get it"
        ) from None
    if len(text) < LEAST_CHARACTERS:
        raise UserError(f"{path}: holds no secret; remove it, the next start makes another one")
    return text
