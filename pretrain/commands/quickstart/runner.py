"""The runner of a quickstart: commands run in one folder as a user would type them, and are shown so."""

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data_tools.counts import counted
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.run.relay import Relay
from pretrain.tracking.journal import curve, read
from pretrain.tracking.plot import plot_loss_curve


@dataclass(frozen=True)
class SummaryRow:
    """A line of the closing table."""

    what: str
    result: str
    seconds: float


@dataclass(frozen=True)
class Runner:
    """A quickstart's folder, and how it runs a command."""

    out: Path
    console: Console

    def run(self, *arguments: str) -> tuple[str, float]:
        """Show and run `pretrain ARGUMENTS`.

        Returns:
            What it printed, and its seconds.

        Raises:
            UserError: the command failed (its own message has been shown), or a signal came.
        """
        line = f"$ pretrain {shlex.join(arguments)}"
        self.console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
        began = time.perf_counter()
        with Relay() as relay:
            child = relay.start(
                [sys.executable, "-m", "pretrain", *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "COLUMNS": str(self.console.width)},  # tables as wide as in this terminal
            )
            said = child.communicate()[0]
        self.console.print(said, markup=False, highlight=False, soft_wrap=True)
        if code := relay.code(child):
            error = UserError(f"{relay.why}the command above ended with exit code {code}")
            error.exit_code = code
            raise error
        return said, time.perf_counter() - began

    def preset(self, name: str, copy: str) -> str:
        """Copy a preset into the folder, to be edited afterwards; `copy` is its name without `.yaml`."""
        path = self.path(f"{copy}.yaml")
        self.run("configs", "copy", name, path)
        return path

    def path(self, name: str) -> str:
        """A path in the folder, as commands take it."""
        return str(self.out / name)


def shown(path: Path) -> str:
    """The shortest form in which a path can be typed here."""
    return min(str(path), os.path.relpath(path), key=len)


def fact(said: str) -> str:
    """What a data command says about its output, after the path."""
    return [line for line in said.splitlines() if ": " in line][-1].partition(": ")[2]


def learning(run: Path) -> str:
    """First and last loss of a run."""
    losses = [loss for _, loss in curve(read(RunFolder(run).metrics), "loss")]
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {counted(len(losses), 'step')}"


def picture(run: Path) -> SummaryRow:
    """Plot the loss, unless the run has done so."""
    began = time.perf_counter()
    file = RunFolder(run).loss_curve
    if not file.is_file():
        plot_loss_curve(RunFolder(run).metrics, file, run.name)
    return SummaryRow("picture", shown(file), time.perf_counter() - began)
