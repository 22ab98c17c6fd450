"""Results that a run already has: each is a file of the run, named after what decides it.

So a suite that runs again computes nothing twice, and MLflow gets each result once, even where another number
of processes would round differently.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_tools.bounded import SMALL_FILE, open_regular, read_bytes
from data_tools.index_file import INDEX_BYTES, INDEX_NAME
from data_tools.remote import fetch
from data_tools.sources import is_remote
from evals.result import Result
from evals.scored import evaluation_of
from evals.suite import SuiteEntry
from pretrain.checkpoint import open_checkpoint, resolve
from pretrain.config.load import read_config
from pretrain.errors import UserError
from pretrain.megatron.restore import RESOLVED_CONFIG
from pretrain.run.folder import RunFolder, write_atomically
from pretrain.tracking import journal
from pretrain.tracking.evaluations import record_evaluation

LAYOUT = ("parallel.", "batch.micro_size", "data.cache_")
"""Prefixes of override keys that do not affect a result."""


def key_of(entry: SuiteEntry, checkpoint: Path, overrides: Sequence[str]) -> str:
    """A short hash of what decides a result: checkpoint, data, options.

    Raises UserError, IntegrityError: something that has to be read does not exist.
    """
    decisive = sorted(each for each in overrides if not each.startswith(LAYOUT))
    identity: list[Any] = [open_checkpoint(checkpoint).fingerprint]
    if entry.task == "harness":
        from evals.harness.definition import find_definitions

        definitions = find_definitions(entry.tasks, entry.task_folder)
        identity += [version("lm_eval"), decisive, [(one.name, one.fingerprint) for one in definitions]]
        read = [str(path) for one in definitions for path in one.files]
    else:
        identity += [entry.model_dump(mode="json", exclude={"name", "tasks", "task_folder"}), decisive]
        read = [*entry.paths, *_data_of(checkpoint, decisive, other_data=bool(entry.data))]
    identity.append([_fingerprint(path) for path in read])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def find(run: RunFolder, entry: SuiteEntry, step: int, key: str) -> Result | None:
    """The result that the run has; None if it has to be computed."""
    try:
        result = Result.from_json(read_bytes(_file(run, entry, step, key), SMALL_FILE).decode())
    except (OSError, ValueError):
        return None
    return result if result.step == step else None


def keep(run: RunFolder, entry: SuiteEntry, result: Result, key: str) -> None:
    """Store a result in the run folder, from where MLflow gets it; an existing one is not stored again.

    Raises UserError: the folder cannot be written.
    """
    file = _file(run, entry, result.step, key)
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, result.to_json())
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
    metrics = journal_metrics(entry, result.metrics)
    if not _recorded(run, result.step, metrics):
        record_evaluation(run.path, result.step, metrics)


def journal_metrics(entry: SuiteEntry, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics under their MLflow names, without `validation_loss`, whose curve belongs to the trainer."""
    return {
        entry.metric(name): value
        for name, value in metrics.items()
        if entry.name is not None or name != "validation_loss"
    }


def _recorded(run: RunFolder, step: int, metrics: Mapping[str, float]) -> bool:
    if not run.evaluations.exists():
        return False
    return any(
        line["step"] == step and all(line.get(name) == value for name, value in metrics.items())
        for line in journal.read(run.evaluations)
    )


def _file(run: RunFolder, entry: SuiteEntry, step: int, key: str) -> Path:
    return run.artifacts / f"step-{step:08d}" / f"{entry.name or entry.task}-{key}.json"


def _data_of(checkpoint: Path, overrides: Sequence[str], *, other_data: bool) -> list[str]:
    """The shard directories or files that a run names; its config says which of them is scored.

    other_data: other data is scored instead.
    """
    given = [each for each in overrides if each.startswith("data.")]
    config = read_config(str(checkpoint / RESOLVED_CONFIG), given, saved=True).config
    return list(evaluation_of(config).reads(config, other_data))


def _fingerprint(path: str) -> str:
    """The fingerprint of a shard directory, a run or a file."""
    if (Path(path) / RESOLVED_CONFIG).is_file():
        return open_checkpoint(resolve(path)).fingerprint
    if is_remote(path):
        return hashlib.sha256(fetch(f"{path.rstrip('/')}/{INDEX_NAME}", INDEX_BYTES)).hexdigest()
    index = Path(path) / INDEX_NAME
    if index.is_file():
        path = str(index)
    if os.path.isfile(path):
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    raise UserError(f"{path}: there is no such shard directory, run or file")
