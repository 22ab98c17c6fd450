"""The curves of a run as pictures: losses with the learning rate, and accuracies with their baselines."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_tools.atomic import replacing
from data_tools.errors import printable
from pretrain.tracking.curves import Curves, Points
from pretrain.tracking.journal import lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 5000
LONGEST_TITLE = 80
"""Characters that fit the width of the picture."""
LOSSES = {
    "loss": ("training loss", "tab:blue"),
    "loss_g": ("generator", "tab:green"),
    "loss_d": ("discriminator", "tab:orange"),
}
"""Curves in the picture of losses; the two of a GAN add up to its `loss`."""


def plot_loss_curve(journal: Path, picture: Path, title: str = "") -> bool:
    """Draw a journal's losses as a PNG of 1600 x 900 pixels.

    Returns:
        False, with nothing drawn, if the journal has no loss yet.

    Raises:
        FileNotFoundError: there is no journal.
        IntegrityError: the journal is damaged.
    """
    curves = Curves(lines_of(journal), {*LOSSES, "validation_loss", "lr", "tokens"}.__contains__)
    validation = curves.over("validation_loss")
    losses = {name: points for name in LOSSES if len(points := curves.over(name))}
    if not losses and not len(validation):
        return False
    figure, axes = new_figure(title, "loss (nats per token)" if "tokens" in curves.names else "loss")
    for name, points in losses.items():
        label, colour = LOSSES[name]
        axes.plot(*thin(points).T, color=colour, alpha=0.3, linewidth=1, label=label)
        axes.plot(*thin(running_mean(points)).T, color=colour, linewidth=2, label=f"{label}, running mean")
    if len(validation):
        axes.plot(*validation.T, "o-", color="tab:red", markersize=5, label="validation loss")
    if len(rates := curves.over("lr")):
        right = axes.twinx()
        right.plot(*thin(rates).T, color="tab:gray", linewidth=1, linestyle="--", label="learning rate")
        right.set_ylabel("learning rate")
        right.set_ylim(bottom=0)
    _write(figure, picture, "upper right")
    return True


def plot_accuracy_curves(journal: Path, picture: Path, title: str = "") -> bool:
    """Draw a journal's accuracies, those in training as running means, beside their baselines.

    Returns:
        False, with nothing drawn, if the journal has no accuracy.

    Raises:
        FileNotFoundError: there is no journal.
        IntegrityError: the journal is damaged.
    """
    curves = Curves(lines_of(journal), lambda name: name.endswith("accuracy"))
    known = curves.names - {"step"}
    names = sorted({name.removeprefix("training_").removeprefix("validation_") for name in known})
    if not names:
        return False
    figure, axes = new_figure(title, "accuracy")
    for number, name in enumerate(names):
        colour = f"C{number}"
        if len(points := curves.over(f"training_{name}")):
            style = "--" if "baseline" in name else "-"
            label = f"training {name.replace('_', ' ')}"
            axes.plot(*thin(running_mean(points)).T, style, color=colour, label=label)
        if "baseline" not in name and len(points := curves.over(f"validation_{name}")):
            label = f"validation {name.replace('_', ' ')}"
            style = "o-" if f"training_{name}" not in known else "o"
            axes.plot(*points.T, style, color=colour, markersize=5, label=label)
    axes.set_ylim(0, 1)
    _write(figure, picture, "best")
    return True


def new_figure(title: str, what: str, across: str = "step") -> tuple["Figure", "Axes"]:
    """A figure of 1600 x 900 pixels, with the names of its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.625), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=across, ylabel=what)
    shown = printable(title)
    axes.set_title(shown if len(shown) <= LONGEST_TITLE else f"...{shown[-LONGEST_TITLE:]}", parse_math=False)
    axes.grid(alpha=0.25)
    return figure, axes


def _write(figure: "Figure", picture: Path, legend: str) -> None:
    """Add the legend of all axes, and write the file atomically."""
    handles, labels = zip(
        *(pair for each in figure.axes for pair in zip(*each.get_legend_handles_labels(), strict=True)),
        strict=True,
    )
    figure.axes[0].legend(handles, labels, loc=legend)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with replacing(picture, durable=False) as file:
        figure.savefig(file, format="png")


def running_mean(points: Points) -> Points:
    """Centred mean over a fiftieth of the points, so that it does not lag; the window narrows towards both
    ends."""
    count = len(points)
    half, index = max(1, count // 100), np.arange(count)
    sums = np.concatenate([[0.0], np.cumsum(points[:, 1])])
    reach = np.minimum(half, np.minimum(index, count - 1 - index))
    means = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return np.column_stack([points[:, 0], means])


def thin(points: Points) -> Points:
    """At most MAX_POINTS of the points, including the last one."""
    stride = math.ceil(len(points) / MAX_POINTS)
    return points if stride <= 1 else np.concatenate([points[:-1:stride], points[-1:]])
