"""Commands that permission bits bind, for root too."""

import os
import subprocess
import sys

_ROOT_IS_BOUND = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def pretrain_bound(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`pretrain` as a user who may read and write only what permission bits allow."""
    command = [sys.executable, "-m", "pretrain", *arguments]
    if os.geteuid() == 0:
        command = [*_ROOT_IS_BOUND, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
