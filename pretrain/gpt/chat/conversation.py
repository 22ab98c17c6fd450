"""Conversations, and the .jsonl files that they are in, one object a line."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.config.schema import nearest_name
from pretrain.config.sections import ChatDataConfig
from pretrain.data.table import no_key, read_objects
from pretrain.errors import UserError

ROLES = ("system", "user", "assistant")
KEYS = ("role", "content")


@dataclass(frozen=True)
class Message:
    """What one side says. role: one of `ROLES`."""

    role: str
    content: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Conversation:
    """Messages, the last of them an assistant's. line: of its file, from 1."""

    line: int
    messages: tuple[Message, ...]


def read_conversations(path: str, data: ChatDataConfig) -> list[Conversation]:
    """Read every conversation of a file.

    Args:
        path: .jsonl.
        data: says under which keys the texts are.

    Raises:
        UserError: the file, a key or a text is missing or malformed; names the line.
    """
    if Path(path).suffix != ".jsonl":
        raise UserError(f"{path}: must end in .jsonl: a file with an object a line")
    found = [Conversation(line, _messages(row, data, f"{path}:{line}")) for line, row in read_objects(path)]
    if not found:
        raise UserError(f"{path}: holds no conversation")
    return found


def _messages(row: dict[str, Any], data: ChatDataConfig, where: str) -> tuple[Message, ...]:
    if data.messages is None:
        prompt, response = data.prompt or "prompt", data.response or "response"
        return (Message("user", _text(row, prompt, where)), Message("assistant", _text(row, response, where)))
    if data.messages not in row:
        raise UserError(f"{where}: {no_key(list(row), data.messages)}")
    listed = row[data.messages]
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: {data.messages} must be a list of {{role, content}}, got {_shown(listed)}")
    messages = tuple(
        _message(item, f"{where}: {data.messages}, item {number}") for number, item in enumerate(listed, 1)
    )
    return _in_order(messages, where)


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise UserError(f"{where}: must be an object with role and content, got {_shown(item)}")
    for key in item:
        if key not in KEYS:
            meant = nearest_name(key, KEYS)
            hint = f"did you mean '{meant}'?" if meant else "a message has role and content"
            raise UserError(f"{where}: unknown key {key!r:.60} ({hint})")
    role, content = (_text(item, key, where) for key in KEYS)
    if role not in ROLES:
        meant = nearest_name(role, ROLES)
        hint = f" (did you mean '{meant}'?)" if meant else ""
        raise UserError(f"{where}: role must be {' or '.join(ROLES)}, got {role!r:.60}{hint}")
    return Message(role, content)


def _in_order(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    for message in messages[1:]:
        if message.role == "system":
            raise UserError(f"{where}: a system message stands first or nowhere")
    if messages[-1].role != "assistant":
        raise UserError(
            f"{where}: the last message is of role '{messages[-1].role}'; no assistant answers it"
        )
    return messages


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise UserError(f"{where}: {no_key(list(row), key)}")
    value = row[key]
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} must be text, got {_shown(value)}")
    if not value.strip():
        raise UserError(f"{where}: {key} is empty")
    if "\0" in value:
        raise UserError(f"{where}: {key} holds a NUL character")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The form in which templates, and transformers, take messages."""
    return [message.to_json() for message in messages]
