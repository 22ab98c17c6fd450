"""`pretrain quickstart`: every stage, on real text that each Python carries, as commands a user would type.

Each stage runs as a command of its own and is shown as typed, so that what works here can be copied. A family
of models is one function that returns its part of the closing table; further families join `FAMILIES`.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pretrain.errors import UserError
from pretrain.folder import RunFolder
from pretrain.tracking.evaluations import log_picture
from pretrain.tracking.journal import curve, read
from pretrain.tracking.plot import plot_loss_curve

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PROMPT = "def __init__(self"
VOCAB_SIZE = 2048


@dataclass(frozen=True)
class Row:
    """A line of the closing table."""

    what: str
    result: str
    seconds: float


@dataclass(frozen=True)
class Kitchen:
    """Where a quickstart works, and how it runs a command."""

    out: Path
    console: Console

    def run(self, *arguments: str) -> tuple[str, float]:
        """Show and run `pretrain ARGUMENTS`.

        Returns:
            What it printed, and its seconds.

        Raises:
            UserError: it failed; its own message has been shown.
        """
        line = f"$ pretrain {shlex.join(arguments)}"
        self.console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pretrain", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": str(self.console.width)},  # tables as wide as they are here
        )
        self.console.print(done.stdout, markup=False, highlight=False, soft_wrap=True)
        if done.returncode != 0:
            error = UserError(f"the command above ended with exit code {done.returncode}")
            error.exit_code = done.returncode
            raise error
        return done.stdout, time.perf_counter() - began


def gpt(kitchen: Kitchen) -> list[Row]:
    """A GPT on the source of the standard library: tensor parallel over two processes."""
    out = kitchen.out
    text, tokenizer, shards, run, result = (
        str(out / name) for name in ("text", "tokenizer", "shards", "gpt", "perplexity.json")
    )
    config = CONFIGS / "gpt" / "quickstart.yaml"
    shown = min(str(config), os.path.relpath(config), key=len)
    _, seconds = kitchen.run("data", "embedded", "--corpus", "stdlib", "--output", text)
    rows = [Row("text", "the source of Python's standard library", seconds)]
    said, seconds = kitchen.run(
        *("data", "tokenizer", "--input", text, "--model-type", "bpe"),
        *("--vocab-size", str(VOCAB_SIZE), "--output", tokenizer),
    )
    rows.append(Row("tokenizer", _fact(said), seconds))
    said, seconds = kitchen.run(
        "data", "build", "--input", text, "--tokenizer", tokenizer, "--output", shards
    )
    rows.append(Row("shards", _fact(said).rpartition(", ")[0], seconds))  # without its own seconds
    _, seconds = kitchen.run("train", shown, "--processes", "2", f"run.dir={run}", f"data.train={shards}")
    rows.append(Row("training", _learning(Path(run)), seconds))
    _, seconds = kitchen.run("eval", run, "--json", result)
    metrics = json.loads(Path(result).read_text())["metrics"]
    score = (
        f"perplexity {metrics['token_perplexity']:.1f} by token (guessing: {VOCAB_SIZE:,}), "
        f"{metrics['bits_per_byte']:.2f} bits per byte, on {metrics['tokens_scored']:,} held-out tokens"
    )
    rows.append(Row("evaluation", score, seconds))
    drawing = ("--max-tokens", "60", "--temperature", "0.7")
    sample, seconds = kitchen.run("generate", run, "--prompt", PROMPT, *drawing)
    (out / "sample.txt").write_text(sample, encoding="utf-8")
    log_picture(run, out / "sample.txt")
    rows.append(Row("sample", str(out / "sample.txt"), seconds))
    return [*rows, _picture(Path(run))]


FAMILIES: dict[str, Callable[[Kitchen], list[Row]]] = {"GPT": gpt}


def quickstart_command(out: str) -> None:
    """Run every family and close with a table of what was done and how to look at it.

    Raises:
        UserError: the folder is not empty, or a command failed.
    """
    if not CONFIGS.is_dir():
        raise UserError(f"{CONFIGS} is missing: run the quickstart from a clone of the repository")
    folder = _make_folder(out)
    console = Console()
    table = Table(title="quickstart", title_justify="left")
    for column in ("", "stage", "result", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    began = time.perf_counter()
    for family, cook in FAMILIES.items():
        for row in cook(Kitchen(folder, console)):
            table.add_row(family, row.what, row.result, f"{row.seconds:.0f}")
            family = ""
        table.add_section()
    table.add_row("", "all", "", f"{time.perf_counter() - began:.0f}")
    console.print(table)
    database = RunFolder(folder / "gpt").database
    console.print("Look at the run, its curves and pictures:", highlight=False)
    console.print(f"  mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{database}')}", soft_wrap=True)
    console.print("Then bring your own text: docs/data.md", highlight=False)


def _make_folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except FileExistsError:
        raise UserError(f"--out {out}: is a file; give the name of a folder") from None
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made: {error.strerror}") from None
    if full:
        raise UserError(
            f"--out {out}: is not empty, perhaps from an earlier quickstart; remove it, or give an empty "
            f"folder: pretrain quickstart --out {_free_name(folder)}"
        )
    return folder


def _free_name(folder: Path) -> Path:
    base = Path("quickstart") if folder.name in {"", ".."} else folder
    numbered = (base.with_name(f"{base.name}-{number}") for number in count(2))
    return next(path for path in numbered if not path.exists())


def _fact(said: str) -> str:
    """What a data command's last line says after the path."""
    return said.strip().splitlines()[-1].partition(": ")[2]


def _learning(run: Path) -> str:
    losses = [loss for _, loss in curve(read(RunFolder(run).metrics), "loss")]
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps"


def _picture(run: Path) -> Row:
    began = time.perf_counter()
    picture = RunFolder(run).loss_curve
    if not picture.is_file():
        plot_loss_curve(RunFolder(run).metrics, picture, run.name)
    shown = min(str(picture), os.path.relpath(picture), key=len)
    return Row("picture", shown, time.perf_counter() - began)
