"""`python -m slurm.sandbox up|down|status`."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from data_tools.counts import counted
from data_tools.errors import UserError
from slurm.sandbox.cluster import Sandbox
from slurm.sandbox.conf import Shape
from slurm.sandbox.packages import require_packages

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False, add_completion=False)
DEFAULT_FOLDER = Path(tempfile.gettempdir()) / f"slurm-sandbox-{os.getuid()}"
Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="State folder of the cluster.")]


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    nodes: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Nodes.")] = 2,
    cpus: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="CPUs that a node claims.")] = 8,
    gpus: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="GPUs that a node claims.")] = 8,
    install: Annotated[
        bool, typer.Option("--install", help="Install Debian's packages where they are missing.")
    ] = False,
) -> None:
    """Start a cluster and print the line that makes it yours: eval "$(python -m slurm.sandbox up)"."""
    began = time.monotonic()
    require_packages(folder.with_name(f"{folder.name}.apt.log"), install=install)
    sandbox = Sandbox(folder)
    for number in (signal.SIGTERM, signal.SIGHUP):  # daemons outlive this command once they are all up
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    sandbox.up(Shape(nodes, cpus, gpus))
    seconds = time.monotonic() - began
    print(f"{counted(nodes, 'node')} idle after {seconds:.1f} s; state in {folder}", file=sys.stderr)
    print(f"export SLURM_CONF={sandbox.conf}")


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """End the cluster and its jobs; logs stay in its folder."""
    Sandbox(folder).down()


@app.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show daemons, nodes and jobs."""
    sandbox = Sandbox(folder)
    daemons = sandbox.daemons()
    if not daemons:
        raise UserError(f"{folder}: no sandbox is up here; `up` starts one")
    for name, process in daemons.items():
        print(f"{name:10} pid {process.pid}")
    for name in sorted(set(sandbox.nodes) - daemons.keys()):
        print(f"{name:10} ended")
    print(sandbox.run("sinfo", "--Node", "--long"))
    print(sandbox.run("squeue"))


def main() -> None:
    """Run a command; what a user can cause ends in one message."""
    try:
        app()
    except UserError as error:
        print(f"slurm.sandbox: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
