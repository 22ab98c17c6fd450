"""A process allows itself as many open files as the system lets it."""

import resource
import subprocess
import sys

from pretrain.run.limits import open_files_wanted

CODE = """
import resource
from pretrain.run.limits import raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def raised(soft: int, hard: int) -> list[int]:
    code = CODE.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_the_limit_is_raised_to_what_the_system_allows() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > 512
    assert raised(256, 512) == [512, 512, 512]
    assert raised(512, 512) == [512, 512, 512]


def test_a_larger_job_wants_more() -> None:
    assert 1024 < open_files_wanted(8) < open_files_wanted(1024) < 65_536
