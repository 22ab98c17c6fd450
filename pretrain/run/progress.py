"""What rank 0 shows while it trains: one live line on a terminal, a plain line now and then elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL = 10.0
"""Seconds between plain lines."""
LIVE_INTERVAL = 0.25
"""Seconds between updates of the live line."""

RATE = "_per_second"
"""End of the name of a rate: every training step has one, of what its kind of model counts."""
FORMATS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"loss": ("loss", "{:.4f}"), "lr": ("lr", "{:.3g}"), "grad_norm": ("grad norm", "{:.3g}")}
)
"""Metric -> label and format, in the order of the line; the rate and its share of the peak follow."""

log = logging.getLogger(__name__)


class TrainingProgress:
    """Context manager: `update` after every step; a line in the log every ten seconds, a live line on a tty.

    Args:
        steps: optimizer steps of the whole run.
        start: steps done before this job.
        console: where the live line is shown, if it is a terminal. Plain lines go to the log.
        clock: monotonic seconds.
    """

    def __init__(
        self, steps: int, start: int, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps = steps
        self._start = start
        self._clock = clock
        self._began = self._last_plain = self._last_live = clock()
        self._plain_shown = False
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show a step, if a line is due."""
        now = self._clock()
        due = now - self._last_plain >= PLAIN_INTERVAL or not self._plain_shown or step >= self._steps
        live_due = self._live is not None and now - self._last_live >= LIVE_INTERVAL
        if not (due or live_due):
            return
        line = step_line(step, self._steps, metrics, self._seconds_left(step, now))
        if due:
            self._last_plain, self._plain_shown = now, True
            # With a live line, plain lines still go to the log's file, but not to the terminal.
            log.info("%s", line, extra={"live": self._live is not None})
        if self._live is not None:
            self._last_live = now
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _seconds_left(self, step: int, now: float) -> float | None:
        done = step - self._start
        return (now - self._began) / done * (self._steps - step) if done > 0 else None

    def __enter__(self) -> "TrainingProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def shown(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The metrics that are worth a place on a line: label and value; the label of a rate ends with "/s"."""
    for name, (label, form) in FORMATS.items():
        if name in metrics:
            yield label, form.format(metrics[name])
    for name in (name for name in metrics if name.endswith(RATE)):
        yield f"{name.removesuffix(RATE)}/s", f"{metrics[name]:,.0f}"
    if "mfu" in metrics:
        yield "MFU", f"{metrics['mfu']:.1%}"


def metrics_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """A line of any metrics: `step 200/2,000  validation_loss 2.1034`."""
    return "  ".join(
        [f"step {step:,}/{steps:,}", *(f"{name} {value:.6g}" for name, value in metrics.items())]
    )


def step_line(step: int, steps: int, metrics: Mapping[str, float], seconds_left: float | None) -> str:
    """The line: `step 120/2,000  loss 3.2145  lr 0.00098  grad norm 0.87  12,345 tokens/s  ETA 0:03:12`."""
    parts = [f"step {step:,}/{steps:,}"]
    for label, value in shown(metrics):
        parts.append(f"{value} {label}" if label.endswith("/s") else f"{label} {value}")
    if seconds_left is not None:
        parts.append(f"ETA {duration(seconds_left)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
