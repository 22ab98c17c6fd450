"""The result of an evaluation: the metrics, and everything needed to reproduce them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.counts import counted
from data_tools.typed import Natural, parse
from pretrain.checkpoint import Checkpoint
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.run.folder import write_atomically


def _number(value: Any) -> Any:
    return math.inf if value == "Infinity" else value


@dataclass(frozen=True)
class Result:
    """What `pretrain eval --json` writes."""

    checkpoint: str
    """Path of the step folder."""
    step: Natural
    """Optimizer steps done."""
    metrics: Mapping[str, Annotated[int | float, BeforeValidator(_number)]]
    """Metric name -> value; `spec["definitions"]` says what each is."""
    spec: Mapping[str, Any]
    """Everything that decides the metrics: data, weights, windows, precision, and parallel dims."""

    def to_json(self) -> str:
        """Strict JSON; an infinite number is the text "Infinity", as in metrics.jsonl."""
        document = asdict(self)
        document["metrics"] = {
            name: value if math.isfinite(value) else "Infinity" for name, value in self.metrics.items()
        }
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """The inverse of `to_json`; raises ValueError for anything else."""
        return parse(cls, text)

    def show(self, console: Console) -> None:
        """Print every metric with its value and definition, then what was scored."""
        definitions = self.spec["definitions"]
        table = Table(title=Text(f"{self.checkpoint} (step {self.step:,})"), title_justify="left")
        table.add_column("metric", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("definition")
        for name, value in self.metrics.items():
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.6g}", definitions[name])
        console.print(table)
        for name in sorted(set(definitions) - set(self.metrics)):
            console.print(f"{name}: {definitions[name]}", markup=False, highlight=False)
        if "summary" in self.spec:
            console.print(self.spec["summary"], markup=False, highlight=False)
            return
        spec = self.spec
        paths = ", ".join(source["path"] for source in spec["data"])
        stride = f", stride {spec['stride']}" if "stride" in spec else ""
        console.print(
            f"scored {paths} in windows of {counted(spec['sequence_length'], 'token')}{stride}; "
            f"{spec['layout']}, {spec['precision']} on {spec['device']}",
            markup=False,
            highlight=False,
        )


def spec_of(
    task: str,
    definitions: Mapping[str, str],
    checkpoint: Checkpoint,
    world: DistContext,
    libraries: Sequence[str] = ("pretrain", "torch"),
) -> dict[str, Any]:
    """What every spec begins with; `libraries` are those whose version may affect the metrics."""
    return {
        "task": task,
        "definitions": dict(definitions),
        "checkpoint_fingerprint": checkpoint.fingerprint,
        "processes": world.size,
        "device": world.device.type,
        "versions": {name: version(name) for name in libraries},
    }


def require_writable(path: str) -> None:
    """Refuse a result file that cannot be written, before hours of scoring.

    Raises UserError: its folder does not exist, or it is a folder itself.
    """
    if Path(path).is_dir():
        raise UserError(f"--json {path}: is a folder; give the name of a file")
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"--json {path}: its folder {Path(path).absolute().parent} does not exist")


def write_text(path: str, text: str) -> None:
    """Write the file of `--json`, all of it or nothing. Raises UserError: the file cannot be written."""
    try:
        write_atomically(Path(path), text)
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}") from None
