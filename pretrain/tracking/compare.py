"""`pretrain compare RUN...`: runs side by side, from the files in their folders; needs no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.errors import printable
from pretrain.config.resume import flatten
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder, read_yaml
from pretrain.run.status import actual_status
from pretrain.tracking.curves import Curves
from pretrain.tracking.journal import lines_of, read
from pretrain.tracking.plot import new_figure, running_mean, thin
from pretrain.tracking.reach import require_lines

NONE = "-"
UNITS = ("tokens", "images")
METRICS = (*UNITS, "loss", "validation_loss")
LONGEST_LABEL = 60
"""Characters; longer labels would leave too little room for the curves."""
OWN = ("run.dir", "tracking.", "slurm.", "checkpoint.")
"""Keys that do not affect what was trained."""


@dataclass(frozen=True)
class ComparedRun:
    """The content of a run folder."""

    name: str
    config: Mapping[str, Any]
    """Dotted key -> value."""
    state: str
    curves: Curves
    evaluations: Mapping[str, tuple[int, float]]
    """Metric -> its last step and its value there."""

    @property
    def unit(self) -> str | None:
        """The unit that it counts: tokens or images."""
        return next((unit for unit in UNITS if unit in self.curves.names), None)

    def last(self, name: str) -> float | None:
        value = self.curves.last(name)
        return int(value) if value is not None and name in ("step", *UNITS) else value

    def best(self, name: str) -> float | None:
        return min(self.curves.values(name).tolist(), default=None)


def compare_command(paths: Sequence[str], plot: str | None) -> None:
    """Print the comparison and, if `plot` names a file, draw it as a PNG.

    Raises:
        UserError: one of them is not a run; the picture cannot be written.
        IntegrityError: a journal is damaged.
    """
    if plot is not None and Path(plot).suffix.lower() != ".png":
        raise UserError(f"--plot {plot}: is drawn as PNG; choose {Path(plot).with_suffix('.png')}")
    runs = _named([_read(path) for path in paths])
    if plot is not None and not Path(plot).absolute().parent.is_dir():
        raise UserError(f"--plot {plot}: its folder {Path(plot).absolute().parent} does not exist")
    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = _rows(runs)
    # names are not wrapped, so that they can be searched
    table.add_column("", min_width=max(len(title) for title, _ in rows))
    for run in runs:
        table.add_column(Text(run.name), justify="right", overflow="fold")
    for title, cells in rows:
        table.add_row(title, *map(Text, cells))  # rich would interpret brackets in a value as markup
    Console(soft_wrap=True).print(table)
    if plot is not None:
        draw(runs, Path(plot))
        print(f"drawn: {plot}")


def _read(path: str) -> ComparedRun:
    folder = RunFolder(path)
    folder.require_run()
    status = actual_status(folder)
    require_lines(folder, status)
    lines = read(folder.evaluations) if folder.evaluations.exists() else []
    evaluations: dict[str, tuple[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time") and line["step"] >= evaluations.get(name, (-1, 0.0))[0]:
                evaluations[name] = (int(line["step"]), value)
    return ComparedRun(
        printable(folder.path.name),
        flatten(read_yaml(folder.resolved)),
        status.state if status else "not started",
        Curves(lines_of(folder.metrics) if folder.metrics.exists() else [], METRICS.__contains__),
        evaluations,
    )


def _named(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Names of the runs; those whose folders have the same name are numbered."""
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else replace(run, name=f"{run.name} ({number})")
        for number, run in enumerate(runs, start=1)
    ]


def _rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    rows = [("state", [run.state for run in runs])]
    for name in ("step", *UNITS):
        rows.append((name, [_number(run.last(name)) for run in runs]))
    for name in ("loss", "validation_loss"):
        rows.append((f"last {name}", [_number(run.last(name)) for run in runs]))
    rows.append(("best validation_loss", [_number(run.best("validation_loss")) for run in runs]))
    for metric in sorted({name for run in runs for name in run.evaluations}):
        found = [run.evaluations.get(metric) for run in runs]
        rows.append((metric, [_scored(run, each) for run, each in zip(runs, found, strict=True)]))
    for key in dict.fromkeys(key for run in runs for key in run.config):
        values = [run.config.get(key, NONE) for run in runs]
        if not key.startswith(OWN) and any(value != values[0] for value in values):
            rows.append((key, [NONE if value is None else str(value) for value in values]))
    return [(title, cells) for title, cells in rows if any(cell != NONE for cell in cells)]


def _scored(run: ComparedRun, found: tuple[int, float] | None) -> str:
    """The value, with its step if that is not the run's last."""
    if found is None:
        return NONE
    step, value = found
    return _number(value) + ("" if step == run.last("step") else f" at {step:,}")


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def draw(runs: Sequence[ComparedRun], picture: Path) -> None:
    """Losses as a PNG of 1600 x 900 pixels: over tokens or images if all runs count the same unit, else over
    steps.

    Raises UserError: no run has a loss; the file cannot be written.
    """
    units = {run.unit for run in runs}
    across = (units.pop() if len(units) == 1 else None) or "step"
    figure, axes = new_figure("", "loss: line training (running mean), points validation", across)
    drawn = False
    for number, run in enumerate(runs):
        for name, style, label in (("loss", "-", None), ("validation_loss", "o--", _legend(run.name))):
            points = run.curves.over(name, across)
            if not len(points):
                continue
            drawn = True
            line = thin(running_mean(points) if name == "loss" else points)
            faint = 0.5 if name == "loss" else 1.0
            axes.plot(*line.T, style, color=f"C{number % 10}", alpha=faint, markersize=4, label=label)
        if not len(run.curves.over("validation_loss", across)):
            axes.plot([], [], color=f"C{number % 10}", label=_legend(run.name))
    if not drawn:
        raise UserError("--plot: no run has a loss yet")
    axes.legend()
    try:
        figure.savefig(picture, format="png")
    except OSError as error:
        raise UserError(f"--plot {picture}: cannot be written: {error.strerror}") from None


def _legend(name: str) -> str:
    """A name for matplotlib, which treats text between two $ as a formula, and omits labels that begin with
    an underscore."""
    shown = name if len(name) <= LONGEST_LABEL else f"...{name[-LONGEST_LABEL:]}"
    return "\N{ZERO WIDTH SPACE}" * shown.startswith("_") + shown.replace("$", r"\$")
