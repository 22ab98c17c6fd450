"""The one progress display: a live bar with rate and remaining time on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_SECONDS = 10.0


def amount(value: float, unit: str) -> str:
    """A count with its unit; bytes ("B") with a prefix, as in "3.2 MB"."""
    if unit != "B":
        return f"{value:,.0f} {unit}"
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}B"
        value /= 1000
    return f"{value:,.3g} TB"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        done = amount(task.completed, self._unit)
        rate = f" {amount(task.speed, self._unit)}/s" if task.speed else ""
        return Text(done + rate)


class Progress:
    """Shows the progress of a long task on stderr; a context manager.

    `with Progress("building shards", total=1000, unit="doc") as p: p.advance(10)`; `total` None is unknown.
    """

    def __init__(self, title: str, total: float | None = None, unit: str = "") -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0.0
        self._start = self._last_line = time.monotonic()
        self._live: RichProgress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty():
            columns = (
                SpinnerColumn(),
                TextColumn(escape(title)),
                BarColumn(),
                _Rate(unit),
                TimeRemainingColumn(),
            )
            self._live = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._live.add_task(title, total=total)

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def advance(self, count: float = 1) -> None:
        self._done += count
        if self._live is not None and self._task is not None:
            self._live.advance(self._task, count)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._start, 1e-9)
        line = f"{self._title}: {amount(self._done, self._unit)}"
        if self._total:
            seconds = (self._total - self._done) / rate if rate else 0
            percent = 100 * self._done / self._total
            line += f" of {amount(self._total, self._unit)} ({percent:.0f} %), {seconds:.0f} s to go"
        return line + f", {amount(rate, self._unit)}/s"
