"""Rules between keys of a run that fine-tunes a GPT on conversations."""

from pretrain.config.rule import Rule, Setup, unless
from pretrain.config.sections import ChatConfig


def _messages(setup: Setup[ChatConfig]) -> bool:
    return setup.config.data.messages is not None


RULES: tuple[Rule[ChatConfig], ...] = tuple(
    unless(f"messages have roles and no {key}", f"data.{key}", _messages, "has no effect with data.messages")
    for key in ("prompt", "response")
)
