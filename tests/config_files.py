"""Configs for tests: a small valid one, written to a file with keys changed, and the shipped ones."""

from pathlib import Path
from typing import Any

import yaml

from pretrain.config.sections import GptConfig

REPOSITORY = Path(__file__).parents[1]
ALL_SHIPPED = [
    path for kind in ("gpt", "bert", "gan") for path in sorted((REPOSITORY / "configs" / kind).glob("*.yaml"))
]
SHIPPED = [path for path in ALL_SHIPPED if not path.name.startswith("finetune-")]
"""Complete in themselves; the others take their model from a run
(tests/config/test_config_inherit.py)."""

SMALL: dict[str, dict[str, Any]] = {
    "run": {"dir": "runs/small", "steps": 100},
    "model": {"kind": "gpt", "num_layers": 4, "hidden_size": 64, "num_attention_heads": 4},
    "batch": {"global_size": 8, "micro_size": 2, "sequence_length": 64},
    "optimizer": {"lr": 0.001},
    "data": {"train": "data/small"},
}


def small_config(**changes: Any) -> GptConfig:
    """The small config as an object; `section__key=value` changes a key."""
    return GptConfig.model_validate(_changed(changes))


def write_config(path: Path, **changes: Any) -> str:
    """The small config as a file; returns its path."""
    path.write_text(yaml.safe_dump(_changed(changes), sort_keys=False), encoding="utf-8")
    return str(path)


def _changed(changes: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {name: dict(section) for name, section in SMALL.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return tree
