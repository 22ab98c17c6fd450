"""What the files beside a tokenizer of transformers say of its special tokens."""

from collections.abc import Mapping
from typing import Any

from data_tools.bounded import parse_json
from data_tools.errors import UserError

CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
BERT_ROLES = ("pad_token", "cls_token", "sep_token", "mask_token")


def read_object(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The object in one of the files; empty if there is no such file. Raises UserError."""
    try:
        found = parse_json(files.get(name, b"{}"))
    except ValueError as error:
        raise UserError(f"the {name} beside it is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"the {name} beside it is no object")
    return found


def named_tokens(name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """The special tokens that a file of the folder names, such as eos_token."""
    found = {}
    for role, value in read_object(name, files).items():
        content = value.get("content") if isinstance(value, dict) else value
        if role.endswith("_token") and isinstance(content, str):
            found[role] = content
    return found
