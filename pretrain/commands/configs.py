"""`pretrain configs`: the presets that come with the package, and `copy`, which writes one to edit."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pretrain.config import derived
from pretrain.config.load import read_config, require_kind
from pretrain.config.presets import copy_preset, preset_names, preset_path
from pretrain.config.sections import TextConfig

VOCABULARY = re.compile(r"^#.*--vocab-size (\d+)", re.MULTILINE)
"""In a preset's head: the command that makes its tokenizer."""
UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def list_command() -> None:
    """Print name, kind, size and purpose of each preset, in columns that can be searched and piped."""
    rows = [("NAME", "KIND", "SIZE", "FOR"), *(_row(name) for name in preset_names())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, purpose in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), purpose]))
    print("\n`pretrain configs copy NAME [TARGET]` writes one to edit.")


def copy_command(name: str, target: str | None) -> None:
    """Copy a preset and say where to. Raises UserError as `copy_preset`."""
    print(f"{copy_preset(name, target)}: a copy of {name}, to edit")


def _row(name: str) -> tuple[str, str, str, str]:
    text = preset_path(name).read_text(encoding="utf-8")
    model = yaml.safe_load(text).get("model", {})
    purpose = text.splitlines()[0].removeprefix("# ")
    return name, model.get("kind", name.rpartition("/")[0]), _size(name, model, text), purpose


def _size(name: str, model: Mapping[str, Any], text: str) -> str:
    """The number of parameters if the head gives the vocabulary's size, else the config's own sizes."""
    vocabulary = VOCABULARY.search(text)
    if vocabulary and "num_attention_heads" in model:
        config = require_kind(read_config(str(preset_path(name))).config, TextConfig, "this count")
        return _rounded(derived.count_parameters(config, int(vocabulary[1])).total) + " parameters"
    if "hidden_size" in model:
        return f"{model['num_layers']} layers of {model['hidden_size']}"
    if "image_size" in model:
        return f"{model['image_size']} x {model['image_size']} pixels"
    return f"width {model['width']}" if "width" in model else ""


def _rounded(count: int) -> str:
    """Rounded as in papers: three digits and a unit."""
    unit, letter = next((each for each in UNITS if count >= each[0]), (1, ""))
    return f"{count / unit:.3g}{letter}"
