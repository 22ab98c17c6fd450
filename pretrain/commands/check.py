"""`pretrain check`: everything that is wrong with a config at once, or what follows from it.

Rules between keys are judged first; then the data are opened, by the same code as in training.
"""

from collections.abc import Sequence
from typing import Any

from pretrain.config.load import LoadedConfig, load_config
from pretrain.config.node import ConfigError, Problem
from pretrain.config.resolved import config_to_yaml, resolved_values
from pretrain.config.schema import show as as_yaml
from pretrain.config.unreached import unreached
from pretrain.kinds import kind_of
from pretrain.run.folder import RunFolder
from pretrain.tracking.record import unfit


def check_command(
    path: str, overrides: Sequence[str], processes: int | None, *, show: bool, data: bool
) -> None:
    """Print what follows from a config.

    Raises UserError (exit code 2) with every problem, or IntegrityError (3) if only data are damaged.
    """
    loaded = load_config(path, overrides, processes)
    config = loaded.config
    require_fit(loaded)
    opened = check_data(loaded, processes) if data else None
    rows = list(kind_of(config).summary(config, processes, opened))
    if show:
        _print_columns([(key, as_yaml(value), str(place)) for key, value, place in resolved_values(loaded)])
        print()
    _print_columns(rows)
    for key, text in unreached(config):
        print(f"note: {key}: {text}")
    for text in RunFolder(config.run.dir).misfits(config_to_yaml(config)):
        print(f"note: run.dir: {config.run.dir} holds another run, training would be refused: {text}")
    print(f"{path}: no problem found" + ("" if data else "; the data was not looked at"))


def require_fit(loaded: LoadedConfig) -> None:
    """Refuse a run folder whose run MLflow cannot store. Raises ConfigError."""
    tracking = loaded.config.tracking
    reason = unfit(RunFolder(loaded.config.run.dir), tracking.uri) if tracking.enabled else None
    if reason:
        raise ConfigError([Problem(loaded.sources["run.dir"], "run.dir", reason)])


def check_data(loaded: LoadedConfig, processes: int | None = None) -> Any:
    """Open everything that a config names, as a training run on that many processes does.

    Raises ConfigError with every problem, or IntegrityError if all of them are damage.
    """
    return kind_of(loaded.config).open_data(loaded, loaded.config, processes)


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print aligned plain text, which can be read, searched and piped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
