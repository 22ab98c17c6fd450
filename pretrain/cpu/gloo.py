"""One network device for all gloo groups of a process, on loopback if all ranks are on one machine.

torch creates a device for each group, and with it a thread that wakes a hundred times a second for as long as
the process lives. With the dozens of groups of the parallel dims, this costs some per cent of a core for each
idle rank, and far more context switches where ranks share cores.
"""

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed.distributed_c10d as c10d

_TorchGloo: Any = c10d.ProcessGroupGloo


class SharedGloo(_TorchGloo):  # type: ignore[misc]
    """torch's gloo backend on the devices of this process."""

    one_machine = False

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        options = _TorchGloo._Options()
        options._devices = _devices(one_machine=self.one_machine)
        options._timeout = timeout
        super().__init__(store, rank, size, options)


class LoopbackGloo(SharedGloo):
    """The same, for ranks that only this machine may reach."""

    one_machine = True


def share_devices(*, one_machine: bool) -> None:
    """Make every group created from now on share the devices; call it once per process, before the first
    group.

    Args:
        one_machine: all ranks are on this machine, so the groups listen on loopback.
    """
    c10d.ProcessGroupGloo = LoopbackGloo if one_machine else SharedGloo  # type: ignore[misc]


@cache
def _devices(*, one_machine: bool) -> list[Any]:
    """The devices, created at the first call: those named in GLOO_SOCKET_IFNAME, loopback, or the host's."""
    names = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    if names:
        return [_TorchGloo.create_device(interface=name) for name in names]
    if one_machine:
        return [_TorchGloo.create_device(hostname="127.0.0.1")]
    return [_TorchGloo.create_default_device()]
