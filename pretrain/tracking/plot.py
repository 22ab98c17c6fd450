"""The loss curve of a run as a picture: training and validation loss, and the learning rate."""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from pretrain.tracking.journal import Entry, curve, read

MAX_POINTS = 5000


def plot_loss_curve(journal: Path, picture: Path, title: str = "") -> bool:
    """Draw a journal as a PNG of 1600 x 900 pixels.

    Returns:
        False, with nothing drawn, where the journal has no loss yet.

    Raises:
        FileNotFoundError: there is no journal.
        IntegrityError: the journal is damaged.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = read(journal)
    loss, validation = _finite(entries, "loss"), _finite(entries, "validation_loss")
    if not loss and not validation:
        return False
    figure = Figure(figsize=(10, 5.625), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if loss:
        steps, values = zip(*thin(loss), strict=True)
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="training loss")
        steps, values = zip(*thin(running_mean(loss)), strict=True)
        axes.plot(steps, values, color="tab:blue", linewidth=2, label="training loss, running mean")
    if validation:
        steps, values = zip(*validation, strict=True)
        axes.plot(steps, values, "o-", color="tab:red", markersize=5, label="validation loss")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.25)
    if rates := _finite(entries, "lr"):
        right = axes.twinx()
        steps, values = zip(*thin(rates), strict=True)
        right.plot(steps, values, color="tab:gray", linewidth=1, linestyle="--", label="learning rate")
        right.set_ylabel("learning rate")
        right.set_ylim(bottom=0)
    handles, labels = zip(
        *(pair for each in figure.axes for pair in zip(*each.get_legend_handles_labels(), strict=True)),
        strict=True,
    )
    axes.legend(handles, labels, loc="upper right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(picture)
    return True


def running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Centred mean over a fiftieth of the points, so that it does not lag; narrower towards both ends."""
    half = max(1, len(points) // 100)
    sums = list(accumulate((value for _, value in points), initial=0.0))
    result = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        mean = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
        result.append((step, mean))
    return result


def thin(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most MAX_POINTS of the points, the last one among them."""
    stride = math.ceil(len(points) / MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _finite(entries: list[Entry], name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, value in curve(entries, name) if math.isfinite(value)]
