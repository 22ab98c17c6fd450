"""What ranks find in the preflight, one file each, and which nodes are bad.

Files, not messages: a node that is so bad that it hangs cannot keep the others from reporting.
"""

import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from data_tools.atomic import write_atomically
from data_tools.bounded import SMALL_FILE, read_bytes
from data_tools.counts import counted
from data_tools.typed import Natural, Seconds, parse

MAX_SKEW = 2.0
"""Seconds between a node's clock and the median of all; the rendezvous before the clock is read takes some
itself."""
SLOW = 3.0
"""A device this many times slower than the median of all is bad."""


@dataclass(frozen=True)
class RankFinding:
    """One rank's report; None for everything that it has not reached."""

    rank: Natural
    host: str
    device: str = ""
    devices: Natural = 0
    """GPUs that are visible on its node; 0 in a job on CPUs."""
    free_bytes: Natural | None = None
    """Free memory of its device, or of its node in a job on CPUs."""
    disk_bytes: Natural | None = None
    """Free space for temporary files."""
    versions: Mapping[str, str] = field(default_factory=dict)
    matmul_seconds: Seconds | None = None
    clock: Seconds | None = None
    """Unix time right after the rendezvous of all ranks."""
    bandwidth: float | None = None
    """Bus bandwidth of the all-reduce in bytes per second (NCCL's tests, "busbw")."""
    error: str | None = None


@dataclass(frozen=True)
class NodeFindings:
    """The verdict on all nodes."""

    bad: Mapping[str, str]
    """Node -> reason."""
    undecided: tuple[str, ...]
    """Problems that do not identify a bad node."""
    lines: tuple[str, ...]
    """Lines for the log."""


def write_finding(folder: Path, finding: RankFinding) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"rank-{finding.rank:04d}.json", json.dumps(asdict(finding)) + "\n")


def new_findings(folder: Path, known: Container[str] = ()) -> Iterator[tuple[str, RankFinding]]:
    """(file name, report) of all ranks so far but the known ones; a damaged file counts as no report."""
    for path in sorted(folder.glob("rank-*.json")):
        if path.name not in known:
            with suppress(OSError, ValueError):
                yield path.name, parse(RankFinding, read_bytes(path, SMALL_FILE))


def judge_nodes(folder: Path, hosts: Sequence[str]) -> NodeFindings:
    """Find the bad nodes.

    Args:
        hosts: all nodes of the job.
    """
    found = [finding for _, finding in new_findings(folder)]
    silent = {host: "did not answer" for host in hosts if not any(each.host == host for each in found)}
    alone = {
        each.host: f"rank {each.rank}: {each.error}"
        for each in found
        if each.error and each.matmul_seconds is None
    }
    differing, undecided = _differences(found)
    bad = _slow(found) | _skewed(found) | differing | silent | alone
    if not bad:
        # If one rank fails in the rendezvous, the others do too: errors identify bad nodes only if few fail.
        failed = {each.host: f"rank {each.rank}: {each.error}" for each in found if each.error}
        if len(failed) * 2 < len(hosts):
            bad = failed
        else:
            undecided += [f"{host}: {reason}" for host, reason in failed.items()]
    lines = [f"{node} is bad: {reason}" for node, reason in bad.items()]
    return NodeFindings(
        bad, tuple(undecided), tuple(f"preflight: {line}" for line in (*_summary(found), *lines, *undecided))
    )


def _differences(found: Sequence[RankFinding]) -> tuple[dict[str, str], list[str]]:
    """Nodes with other versions, code or devices than most ranks, and differences without a majority."""
    bad: dict[str, str] = {}
    undecided = []
    for name in sorted({name for each in found for name in each.versions} | {"devices"}):
        values = {each.rank: _value(each, name) for each in found}
        ranked = Counter(values.values()).most_common(2)
        if len(ranked) < 2:
            continue
        common, count = ranked[0]
        if count == ranked[1][1]:
            shown = {each.host: _value(each, name) for each in found}
            undecided.append(f"nodes differ in {name}: {', '.join(f'{v} on {k}' for k, v in shown.items())}")
            continue
        for each in found:
            if values[each.rank] != common:
                bad[each.host] = f"{name} {values[each.rank]}, on most nodes {common}"
    return bad, undecided


def _value(finding: RankFinding, name: str) -> str:
    return str(finding.devices) if name == "devices" else finding.versions.get(name, "none")


def _slow(found: Sequence[RankFinding]) -> dict[str, str]:
    times = [each.matmul_seconds for each in found if each.matmul_seconds is not None]
    usual = median(times) if times else 0.0
    return {
        each.host: f"rank {each.rank}: a matrix product takes {each.matmul_seconds:.3f} s, not {usual:.3f} s"
        for each in found
        if each.matmul_seconds is not None and each.device != "cpu" and each.matmul_seconds > SLOW * usual
    }


def _skewed(found: Sequence[RankFinding]) -> dict[str, str]:
    clocks = [each.clock for each in found if each.clock is not None]
    usual = median(clocks) if clocks else 0.0
    return {
        each.host: f"its clock is {each.clock - usual:+.1f} s off"
        for each in found
        if each.clock is not None and abs(each.clock - usual) > MAX_SKEW
    }


def _summary(found: Sequence[RankFinding]) -> list[str]:
    """Lines on the usable memory and disk."""
    if not found:
        return []
    free = min((each.free_bytes for each in found if each.free_bytes is not None), default=0)
    disk = min((each.disk_bytes for each in found if each.disk_bytes is not None), default=0)
    rates = [each.bandwidth for each in found if each.bandwidth is not None]
    link = f", all-reduce {min(rates) / 1e9:.2f} GB/s" if rates else ""
    kind = f"{found[0].devices} x {found[0].device}" if found[0].devices else "CPU"
    nodes = len({each.host for each in found})
    return [
        f"{counted(len(found), 'rank')} on {counted(nodes, 'node')}, {kind}, at least "
        f"{free / 2**30:.1f} GiB of memory and "
        f"{disk / 2**30:.1f} GiB of temporary space free{link}"
    ]
