"""Facts about a run beyond its config: versions, commit, host, job; found without importing any library."""

import getpass
import os
import platform
import socket
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_tools import children

PACKAGES = (
    "pretrain",
    "torch",
    "megatron-core",
    "deepspeed",
    "numpy",
    "webdataset",
    "sentencepiece",
    "mlflow",
)
SLURM = {
    "SLURM_JOB_ID": "slurm.job",
    "SLURM_JOB_NAME": "slurm.name",
    "SLURM_JOB_PARTITION": "slurm.partition",
    "SLURM_JOB_NODELIST": "slurm.nodes",
    "SLURM_RESTART_COUNT": "slurm.restarts",
}
"""Variables of a job, and the names of the facts made from them."""


def environment_facts() -> dict[str, str]:
    """Versions of the relevant packages, Python, host and user; the Slurm job, if there is one; the commit,
    if this runs from a git checkout."""
    facts = {"host": socket.gethostname(), "python": platform.python_version()}
    with suppress(OSError, KeyError):  # the user of a container may have no name
        facts["user"] = getpass.getuser()
    facts |= {name: os.environ[variable] for variable, name in SLURM.items() if os.environ.get(variable)}
    for package in PACKAGES:
        try:
            facts[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    commit = git_commit()
    return facts | ({"git_commit": commit} if commit else {})


def git_commit() -> str | None:
    """The commit of this package's checkout, with "-dirty" if files differ from it; None outside a
    checkout."""
    here = Path(__file__).parent
    # An installed package may lie inside another project's checkout: git must track this very file.
    if _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(here, "rev-parse", "HEAD")
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = children.run(
            # With optional locks, a killed `git` (timeout, full disk) would leave a lock in the checkout.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
