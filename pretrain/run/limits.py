"""The number of files and connections that a process may have open."""

import resource

CONNECTIONS_PER_RANK = 4
"""Of rank 0: one to the store from every rank, and those of collectives."""
OWN_FILES = 1024
"""Open files of a rank in a small job: libraries, shards, devices and connections."""


def raise_open_files() -> int:
    """Raise this process's limit, and with it that of its children, as far as the system allows it.

    Returns:
        The limit, `ulimit -n`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and (hard == unlimited or soft < hard):
        # Linux allows no more than fs.nr_open even where the limit is called unlimited.
        soft = hard if hard != unlimited else max(soft, 2**20)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (ValueError, OSError):
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if soft == unlimited else soft


def open_files_wanted(ranks: int) -> int:
    """Open files that rank 0 of a job may need."""
    return OWN_FILES + CONNECTIONS_PER_RANK * ranks
