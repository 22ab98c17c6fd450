"""What kind of model a run folder or checkpoint holds; no torch, so that a command answers at once."""

from pathlib import Path

from pretrain.config.load import read_config


def saved_kind(path: str | Path) -> str | None:
    """`model.kind` of a run folder or step folder; None where there is neither."""
    file = Path(path) / "config.resolved.yaml"
    if "\0" in str(path) or not file.is_file():
        return None
    return read_config(str(file), saved=True).config.model.kind
