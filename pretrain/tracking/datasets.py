"""What a run reads, by the fingerprints of its files: for `status.json` and MLflow's dataset inputs."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.config.sections import Config

COUNTS = ("tokens", "documents", "images")
CONTEXTS = {"train": "training", "validation": "validation"}


def datasets_of(config: Config) -> list[dict[str, Any]]:
    """Each shard directory, or file of examples, that the config names.

    Returns:
        For each: `context` (training or validation), `path`, `fingerprint` and what it counts. One that
        cannot be read is left out: to refuse it is the trainer's business.
    """
    data = config.model_dump(mode="json").get("data") or {}
    return [
        {"context": context, "path": str(Path(path).absolute()), **described}
        for key, context in CONTEXTS.items()
        for path in _paths(data.get(key))
        if (described := _described(Path(path)))
    ]


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for source in value if isinstance(value, list) else ():
        yield source["path"]


def _described(path: Path) -> dict[str, Any]:
    try:
        if path.is_file():
            return {"fingerprint": hashlib.sha256(path.read_bytes()).hexdigest()}
        index = json.loads((path / "index.json").read_text())
        return {
            "fingerprint": index["fingerprint"],
            **{name: index[name] for name in COUNTS if name in index},
        }
    except (OSError, ValueError, TypeError, KeyError):
        return {}
