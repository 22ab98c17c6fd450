"""The programs a sandbox needs, and their installation from Debian's packages."""

import os
import shutil
from pathlib import Path

from data_tools import children
from data_tools.errors import UserError
from data_tools.private import open_private

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "munged": "munge",
    "unshare": "util-linux",
}
"""Program -> Debian package."""
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str) -> str | None:
    """The path of a program; daemons are outside of a user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


def missing_packages() -> list[str]:
    """The packages whose programs are missing."""
    return sorted({package for program, package in PROGRAMS.items() if find_program(program) is None})


def require_packages(log: Path, *, install: bool) -> None:
    """Check that all programs are installed.

    Args:
        log: file for apt's output.
        install: install what is missing, with apt-get.

    Raises:
        UserError: something is missing and must not be, or could not be, installed.
    """
    missing = missing_packages()
    if not missing:
        return
    if not install:
        raise UserError(
            f"the sandbox needs the Debian packages {', '.join(missing)}; --install installs them, or: "
            f"apt-get install --no-install-recommends {' '.join(missing)}"
        )
    if shutil.which("apt-get") is None:
        raise UserError(
            f"--install: this machine has no apt-get; install {', '.join(missing)} by its own means"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with open(open_private(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as output:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-yqq", "--no-install-recommends", *missing],
        ):
            done = children.run(command, env=environment, stdout=output, stderr=output)
            if done.returncode != 0:
                raise UserError(f"--install: `{' '.join(command)}` ended with {done.returncode}; see {log}")
