"""The load of the machine: `system.jsonl`, a line every fifteen seconds, under the names that MLflow uses.

The uploader measures, since it runs anyway, at low priority, on the node of rank 0. A line's `step` is its
number in the file; what matters is its time.
"""

import logging
import subprocess
import time

import psutil

from data_tools import children
from pretrain.errors import IntegrityError
from pretrain.run.folder import RunFolder
from pretrain.tracking.journal import Journal, read

INTERVAL = 15.0
"""Seconds between lines."""
GPU = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "power.draw": "power_usage_watts",
}
"""nvidia-smi's name of each value, and MLflow's."""
FIRST_LOOK = 0.1
"""Seconds over which the first processor load is measured."""

log = logging.getLogger(__name__)


class System:
    """Measures the machine, and writes the results into the run folder, unless that fails."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._last: float | None = None
        self._lines = 0
        self._journal: Journal | None = None
        self._has_gpus = True
        self._network = psutil.net_io_counters()

    def look(self) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < INTERVAL:
            return
        is_first, self._last = self._last is None, now
        try:
            metrics = self._measure(first=is_first)
            if self._journal is None:
                path = self._folder.system
                self._lines = (
                    max((int(line["step"]) for line in read(path)), default=0) if path.exists() else 0
                )
                self._journal = Journal(path)
            self._lines += 1
            self._journal.append(self._lines, {f"system/{name}": value for name, value in metrics.items()})
        except (OSError, IntegrityError) as error:
            log.info("no line on the machine: %s", error)

    def _measure(self, *, first: bool) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder.path))
        network = psutil.net_io_counters()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(FIRST_LOOK if first else None),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / 1e6,
            **self._gpus(),
        }

    def _gpus(self) -> dict[str, float]:
        if not self._has_gpus:
            return {}
        query = ["nvidia-smi", f"--query-gpu=index,{','.join(GPU)}", "--format=csv,noheader,nounits"]
        try:
            answer = children.run(
                query, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL, check=True
            )
        except (OSError, subprocess.SubprocessError):
            self._has_gpus = False
            return {}
        return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> dict[str, float]:
    """Lines of nvidia-smi, `0, 97, 70123, 650.12`; values that a GPU does not report (`[N/A]`) are
    omitted."""
    found = {}
    for line in text.splitlines():
        index, *values = (field.strip() for field in line.split(","))
        for name, value in zip(GPU.values(), values, strict=True):
            if value.replace(".", "", 1).isdigit():
                found[f"gpu_{index}_{name}"] = float(value)
    return found
