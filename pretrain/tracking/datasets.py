"""The datasets of a run, with fingerprints of their files: for `status.json` and MLflow's dataset inputs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.bounded import open_regular, parse_json, read_json
from data_tools.index_file import INDEX_BYTES, INDEX_NAME
from data_tools.remote import fetch
from data_tools.sources import is_remote
from pretrain.config.sections import Config
from pretrain.errors import UserError

COUNTS = ("tokens", "documents", "images")
CONTEXTS = {"train": "training", "validation": "validation"}


def datasets_of(config: Config) -> list[dict[str, Any]]:
    """Each shard directory, or file of examples, that the config names.

    Returns:
        For each: `context` (training or validation), `path`, `fingerprint` and its counts. One that cannot
        be read is omitted: refusing it is the trainer's job.
    """
    data = config.model_dump(mode="json").get("data") or {}
    return [
        {"context": context, "path": path if is_remote(path) else str(Path(path).absolute()), **described}
        for key, context in CONTEXTS.items()
        for path in _paths(data.get(key))
        if (described := _described(path))
    ]


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for source in value if isinstance(value, list) else ():
        yield source["path"]


def _described(path: str) -> dict[str, Any]:
    try:
        if is_remote(path):
            index = parse_json(fetch(f"{path.rstrip('/')}/{INDEX_NAME}", INDEX_BYTES))
        elif Path(path).is_file():
            with open_regular(path) as file:
                return {"fingerprint": hashlib.file_digest(file, "sha256").hexdigest()}
        else:
            index = read_json(Path(path) / INDEX_NAME, INDEX_BYTES)
        counts = {name: index[name] for name in COUNTS if name in index}
        return {"fingerprint": index["fingerprint"], **counts}
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return {}
