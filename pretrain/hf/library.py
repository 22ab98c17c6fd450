"""The libraries of Hugging Face, which not every installation has."""

import importlib.util
import os

from pretrain.errors import UserError


def require_transformers(command: str) -> None:
    """Refuse a command without transformers; keep transformers quiet and off the network.

    Raises UserError if it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{command} needs the package transformers: pip install 'pretrain[hf]'")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
