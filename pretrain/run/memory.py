"""Memory that a process may still allocate on this machine.

A job under Slurm or in a container is limited by its control group, long before the machine is full. The page
cache counts as used there, but is reclaimed when needed.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FILES = {
    "": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}
"""Controllers, as /proc/self/cgroup names them (none: version 2) -> limit, usage, the page cache's share."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes, according to the kernel and to all control groups of this process; None if neither is known."""
    limits: list[int] = []
    with suppress(OSError):
        limits += [
            int(line.split()[1]) * 1024
            for line in (root / "proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable:")
        ]
    return min([*limits, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in _FILES:
                top = root / "sys/fs/cgroup" / name
                own = top / path.lstrip("/")
                # In a container the path may be the one outside of it; its own group is then the top.
                for group in (own, *own.parents):
                    with suppress(OSError, ValueError):  # "max", or no such group
                        yield _left(group, name)
                    if group == top:
                        break


def _left(group: Path, controllers: str) -> int:
    limit, usage, cached = _FILES[controllers]
    most, used = (int((group / name).read_text()) for name in (limit, usage))
    stat = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return max(0, most - used + sum(int(value) for key, value in stat if key in cached))
