"""One rank's profiled time by cause, from the profiler's spans.

Within the phases in which a rank computes, a moment counts as arithmetic while an operator runs (on a GPU: a
kernel), as communication while only a collective runs, and as Python otherwise. So communication hidden
behind arithmetic costs nothing here, as it costs the step nothing.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pretrain.health.phase_timer import Cause, Phase, cause_of

COLLECTIVES = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")
"""Name prefixes of communication spans: gloo's operations, NCCL's kernels."""
OPERATORS = ("aten::", "mkldnn::")
"""Name prefixes of arithmetic spans on a CPU: torch's operators, and oneDNN's (`cpu.linear`)."""
PHASE = "phase: "
WORKING = {Phase.COMPUTE, Phase.REDUCTION, Phase.UPDATE}
"""Phases in which operators and collectives share the time."""


class Span(NamedTuple):
    """Something that took time, in microseconds."""

    name: str
    start: float
    end: float
    on_device: bool = False


def seconds_by_cause(spans: Sequence[Span]) -> tuple[dict[Cause, float], float]:
    """How long each cause took.

    Args:
        spans: of one rank, including those of its phases (`PHASE` and the phase's value).

    Returns:
        Seconds of each cause, and the seconds of compute, communication and optimizer in which neither an
        operator nor a collective ran: Python, and a GPU that waits for it.
    """
    phases = [span for span in spans if span.name.startswith(PHASE)]
    collectives = _union(span for span in spans if span.name.startswith(COLLECTIVES))
    kernels = [span for span in spans if span.on_device and not span.name.startswith(COLLECTIVES)]
    operators = _union(kernels or (span for span in spans if span.name.startswith(OPERATORS)))
    found, idle = dict.fromkeys(Cause, 0.0), 0.0
    for span in phases:
        phase = Phase(span.name.removeprefix(PHASE))
        whole = span.end - span.start
        if phase not in WORKING:
            found[cause_of(phase)] += whole
            continue
        inside = [(span.start, span.end)]
        busy = _overlap(inside, operators)
        exposed = _length(_overlap(inside, collectives)) - _length(_overlap(busy, collectives))
        rest = whole - _length(busy) - exposed
        found[Cause.COMMUNICATION] += exposed
        if phase is Phase.UPDATE:
            found[Cause.OPTIMIZER] += whole - exposed
        else:
            found[Cause.COMPUTE] += whole - exposed
        idle += rest
    return {cause: each / 1e6 for cause, each in found.items()}, idle / 1e6


Stretch = tuple[float, float]


def _union(spans: Iterable[Span]) -> list[Stretch]:
    """Intervals, in order, in which at least one span is active."""
    joined: list[Stretch] = []
    for start, end in sorted((span.start, span.end) for span in spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _overlap(one: Sequence[Stretch], other: Sequence[Stretch]) -> list[Stretch]:
    """Intervals that lie in both; each argument is in order and has no overlaps of its own."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def _length(stretches: Iterable[Stretch]) -> float:
    return sum(end - start for start, end in stretches)
