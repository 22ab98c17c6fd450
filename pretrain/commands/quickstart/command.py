"""`pretrain quickstart`: every stage, on real data that comes with Python, as commands that a user would
type.

Each stage runs as a command of its own and is shown as typed, so that what works here can be copied. A family
of models is one function that returns its rows of the closing table; further families join `FAMILIES`.
"""

import shlex
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pretrain.commands.quickstart.bert import bert
from pretrain.commands.quickstart.gan import gan
from pretrain.commands.quickstart.gpt import gpt
from pretrain.commands.quickstart.runner import Runner, SummaryRow
from pretrain.config.database_uri import database_uri
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder

FAMILIES: dict[str, Callable[[Runner], list[SummaryRow]]] = {"GPT": gpt, "BERT": bert, "GAN": gan}


def quickstart_command(out: str) -> None:
    """Run every family, then print a table of what was done and how to look at it.

    Raises UserError if the folder is not empty, or a command failed.
    """
    folder = _make_folder(out)
    console = Console()
    table = Table(title="quickstart", title_justify="left")
    for column in ("", "stage", "result", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    began = time.perf_counter()
    for family, run_family in FAMILIES.items():
        for row in run_family(Runner(folder, console)):
            table.add_row(family, row.what, Text(row.result), f"{row.seconds:.0f}")
            family = ""
        table.add_section()
    table.add_row("", "all", "", f"{time.perf_counter() - began:.0f}")
    console.print(table)
    console.print("Look at a run, its curves and pictures:", highlight=False)
    for name in ("gpt", "bert", "gan"):
        database = RunFolder(folder / name).database
        console.print(
            f"  mlflow ui --backend-store-uri {shlex.quote(database_uri(database))}",
            markup=False,
            soft_wrap=True,
        )
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
