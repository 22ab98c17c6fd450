"""`train.profile`: a trace of some steps from every rank, and a table of where their time went."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from data_tools.counts import counted
from pretrain.config.derived import PROFILED_FROM
from pretrain.distributed.gather import gather_texts
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.health.phase_timer import Cause, Phase, PhaseTimer, shares
from pretrain.training.profiling.timeline import PHASE, Span, seconds_by_cause

log = logging.getLogger(__name__)


class StepProfiler:
    """Profiles some steps of a job, once.

    Args:
        steps: how many; None: none.
        folder: where traces and the table go; created when there are any.
        pulse: its marks show in the trace.
        world: all its ranks call the methods together.
    """

    def __init__(self, steps: int | None, folder: Path, pulse: PhaseTimer, world: DistContext) -> None:
        self._left = steps or 0
        self._wait = PROFILED_FROM - 1
        self._folder = folder
        self._pulse = pulse
        self._world = world
        self._profile: profile | None = None
        self._span: record_function | None = None
        self._first = 0

    def before(self, step: int, last: int) -> None:
        """Call before step `step`, counted from 1; `last` is the last step of the run."""
        if not self._left or self._profile is not None:
            return
        if last - step + 1 < self._wait + self._left:
            log.warning("train.profile: %d steps are left of the run, too few; no profile", last - step + 1)
            self._left = 0
            return
        if self._wait:
            self._wait -= 1
            return
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile, self._first = profile(activities=activities), step
        self._profile.start()
        self._pulse.listen(self._mark)
        self._mark(self._pulse.now.phase)

    def after(self, step: int) -> dict[str, float]:
        """Call when step `step` is complete.

        Returns:
            Metrics, once the last profiled step is done: the mean shares over all ranks.

        Raises:
            UserError: on all ranks, if the folder cannot be written.
        """
        if self._profile is None:
            return {}
        self._left -= 1
        if self._left:
            return {}
        name = f"steps-{self._first}-{step}"
        found, idle = self._end(name)
        told = json.dumps([{cause.value: each for cause, each in found.items()}, idle])
        everyone = [json.loads(text) for text in gather_texts(self._world, told)]
        seconds = [{cause: float(each[cause.value]) for cause in Cause} for each, _ in everyone]
        table = table_of(seconds, [idle for _, idle in everyone], self._first, step)
        if self._world.is_first:
            _written(self._folder / f"{name}.txt", lambda path: path.write_text(table))
            log.info("%s\ntraces, for ui.perfetto.dev: %s", table.rstrip(), self._folder)
        means = {cause: sum(each[cause] for each in seconds) / len(seconds) for cause in Cause}
        return shares(means, "profiled_")

    def close(self) -> None:
        """End the profile. If the run ends within the profiled steps, no trace of them is written."""
        if self._profile is not None:
            self._pulse.listen(None)
            self._leave()
            self._profile.stop()
            self._profile = None

    def _end(self, name: str) -> tuple[dict[Cause, float], float]:
        """Stop, write this rank's trace and log what took how long."""
        ended = self._profile
        assert ended is not None
        if self._world.device.type == "cuda":
            torch.cuda.synchronize()
        self.close()
        log.info("profiled %s; the traces are being written, which takes seconds for each step", name)
        path = self._folder / f"{name}.rank-{self._world.rank:05d}.trace.json.gz"
        _written(path, lambda path: ended.export_chrome_trace(str(path)))
        events = ended.events()  # type: ignore[no-untyped-call]
        return seconds_by_cause([_span(event) for event in events])

    def _mark(self, phase: Phase) -> None:
        self._leave()
        self._span = record_function(PHASE + phase.value)
        self._span.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self) -> None:
        if self._span is not None:
            self._span.__exit__(None, None, None)
            self._span = None


def table_of(seconds: list[dict[Cause, float]], idle: list[float], first: int, last: int) -> str:
    """The table over all ranks: shares and milliseconds a step, and the ranks with the least and the most.

    Args:
        seconds: of each rank, by cause.
        idle: of each rank, see `seconds_by_cause`.
        first: first profiled step.
        last: last profiled step.
    """
    steps, ranks = last - first + 1, len(seconds)
    whole = sum(sum(each.values()) for each in seconds) or 1.0
    step = whole / ranks / steps * 1e3
    lines = [f"steps {first:,} to {last:,}, {step:,.1f} ms each; mean of {counted(ranks, 'rank')}"]
    lines.append(f"{'cause':34}{'share':>7}{'ms a step':>11}   least and most of a rank")

    def row(name: str, values: list[float]) -> str:
        mean = sum(values) / ranks / steps * 1e3
        ends = [
            f"{values[rank] / steps * 1e3:,.1f} (rank {rank})"
            for rank in sorted(range(ranks), key=values.__getitem__)
        ]
        return f"{name:34}{sum(values) / whole:>7.1%}{mean:>11,.1f}   {ends[0]}, {ends[-1]}"

    for cause in Cause:
        lines.append(row(cause.value.replace("_", " "), [each[cause] for each in seconds]))
    lines.append(row("no operator runs, of all these", idle))
    return "\n".join(lines) + "\n"


def _span(event: Any) -> Span:
    on_device = event.device_type.name != "CPU"
    return Span(event.name, event.time_range.start, event.time_range.end, on_device)


def _written(path: Path, write: Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write(path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"train.profile: {path} cannot be written: {error}") from None
