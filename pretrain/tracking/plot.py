"""The curves of a run as pictures: losses with the learning rate, and accuracies with their baselines."""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.tracking.journal import Entry, curve, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 5000
LOSSES = {
    "loss": ("training loss", "tab:blue"),
    "loss_g": ("generator", "tab:green"),
    "loss_d": ("discriminator", "tab:orange"),
}
"""Curves of the picture of losses; the two of a GAN add up to its `loss`."""


def plot_loss_curve(journal: Path, picture: Path, title: str = "") -> bool:
    """Draw a journal's losses as a PNG of 1600 x 900 pixels.

    Returns:
        False, with nothing drawn, where the journal has no loss yet.

    Raises:
        FileNotFoundError: there is no journal.
        IntegrityError: the journal is damaged.
    """
    entries = read(journal)
    validation = _finite(entries, "validation_loss")
    losses = {name: points for name in LOSSES if (points := _finite(entries, name))}
    if not losses and not validation:
        return False
    is_text = any("tokens" in entry for entry in entries)
    figure, axes = _figure(title, "loss (nats per token)" if is_text else "loss")
    for name, points in losses.items():
        label, colour = LOSSES[name]
        axes.plot(*_line(thin(points)), color=colour, alpha=0.3, linewidth=1, label=label)
        smooth = _line(thin(running_mean(points)))
        axes.plot(*smooth, color=colour, linewidth=2, label=f"{label}, running mean")
    if validation:
        axes.plot(*_line(validation), "o-", color="tab:red", markersize=5, label="validation loss")
    if rates := _finite(entries, "lr"):
        right = axes.twinx()
        right.plot(*_line(thin(rates)), color="tab:gray", linewidth=1, linestyle="--", label="learning rate")
        right.set_ylabel("learning rate")
        right.set_ylim(bottom=0)
    _write(figure, picture, "upper right")
    return True


def plot_accuracy_curves(journal: Path, picture: Path, title: str = "") -> bool:
    """Draw a journal's accuracies, those in training as running means, beside their baselines.

    Returns:
        False, with nothing drawn, where the journal has no accuracy.

    Raises:
        FileNotFoundError: there is no journal.
        IntegrityError: the journal is damaged.
    """
    entries = read(journal)
    known = {name for entry in entries for name in entry if name.endswith("accuracy")}
    names = sorted({name.removeprefix("training_").removeprefix("validation_") for name in known})
    if not names:
        return False
    figure, axes = _figure(title, "accuracy")
    for number, name in enumerate(names):
        colour = f"C{number}"
        if points := _finite(entries, f"training_{name}"):
            style = "--" if "baseline" in name else "-"
            label = f"training {name.replace('_', ' ')}"
            axes.plot(*_line(thin(running_mean(points))), style, color=colour, label=label)
        if "baseline" not in name and (points := _finite(entries, f"validation_{name}")):
            label = f"validation {name.replace('_', ' ')}"
            style = "o-" if f"training_{name}" not in known else "o"
            axes.plot(*_line(points), style, color=colour, markersize=5, label=label)
    axes.set_ylim(0, 1)
    _write(figure, picture, "best")
    return True


def _figure(title: str, what: str) -> tuple["Figure", "Axes"]:
    """An empty picture over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.625), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel="step", ylabel=what, title=title)
    axes.grid(alpha=0.25)
    return figure, axes


def _write(figure: "Figure", picture: Path, legend: str) -> None:
    """Add the legend of all axes, and put the file in place whole."""
    handles, labels = zip(
        *(pair for each in figure.axes for pair in zip(*each.get_legend_handles_labels(), strict=True)),
        strict=True,
    )
    figure.axes[0].legend(handles, labels, loc=legend)
    picture.parent.mkdir(parents=True, exist_ok=True)
    temporary = picture.with_name(f".{picture.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(picture)


def _line(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


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
