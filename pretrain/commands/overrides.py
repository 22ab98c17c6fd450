"""Commands that take `section.key=value`, and what they say to a key that is written as an option."""

from typing import Any

from typer.core import TyperCommand

from pretrain.errors import UserError

BLENDS = ("data-path", "train-data-path", "valid-data-path")
"""Megatron's options of blended data."""


class ConfigCommand(TyperCommand):
    """A command whose unknown options may be keys of a config."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class. Raises UserError for an option that is a key."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # From click's NoSuchOption, which typer does not export.
            option = getattr(error, "option_name", None)
            if not isinstance(option, str) or not (right := key_for(option, given)):
                raise
            raise UserError(f"{option}: keys of a config are given without dashes: {right}") from None


def key_for(option: str, arguments: list[str]) -> str | None:
    """How to write the key that an unknown option means; None if it means none."""
    from pretrain.config.node import dotted
    from pretrain.config.schema import every_key

    name = option.lstrip("-")
    if name in BLENDS:
        return "data.train='[{path: DIR, weight: 0.3}, ...]'"
    last = name.replace("-", "_")
    keys = [key for key in map(dotted, every_key()) if key == last or key.rpartition(".")[2] == last]
    if "." in name:
        keys = keys or [name]
    at = next((at for at, word in enumerate(arguments) if word.partition("=")[0] == option), None)
    if not keys or at is None:
        return None
    _, equals, value = arguments[at].partition("=")
    if not equals:
        value = next((word for word in arguments[at + 1 : at + 2] if not word.startswith("--")), "VALUE")
    return " or ".join(f"{key}={value}" for key in keys)
