"""From JSON that one of our processes wrote back to the dataclass that it was, with every type checked.

Such a file lies where others can write, or may have been truncated by a crash, and its values are used
without further checks.
"""

import json
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from data_tools.bounded import parse_json
from data_tools.names import is_foreign, masked, storable, unmasked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Natural = Annotated[int, Field(ge=0, lt=1 << 53)]
"""A count; whole numbers below 2 to the 53 are exact in every JSON reader."""
Seconds = Annotated[float, Field(ge=0, lt=253_402_300_800)]
"""Unix time, or a duration: before the year 10000, where Python's calendar ends."""


def parse(kind: type[T], text: bytes | str) -> T:
    """The dataclass in a JSON text; raises ValueError as `parse_json` and `typed`."""
    return typed(kind, parse_json(text))


def typed(kind: type[T], tree: Any) -> T:
    """The dataclass of a JSON tree.

    Raises ValueError: a key is missing or unknown, or a value is of another type or out of range; names it.
    """
    if not isinstance(tree, dict):
        raise ValueError("it is no object")
    if unknown := sorted(tree.keys() - {each.name for each in fields(kind)}):
        raise ValueError(f"unknown key {unknown[0][:60]!r}")
    text = json.dumps(tree, ensure_ascii=False)
    foreign = is_foreign(text)  # pydantic does not accept such bytes, even escaped
    try:
        # Validated as JSON, so that a list may become a tuple; strict, so that "5" or true is not a number.
        found: T = _adapter(kind).validate_json(storable(masked(text) if foreign else text), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location, told = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{location}: {told}, got {_short(first['input'])}") from None
    return _unmasked(found) if foreign else found


def _unmasked(value: Any) -> Any:
    """The value with every text in it `unmasked`."""
    if isinstance(value, str):
        return unmasked(value)
    if isinstance(value, dict):
        return {_unmasked(key): _unmasked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_unmasked, value))
    if is_dataclass(value) and not isinstance(value, type):
        changed = {each.name: _unmasked(getattr(value, each.name)) for each in fields(value)}
        return replace(value, **changed)
    return value


def natural(value: Any) -> int:
    """The value, which must be a `Natural`; raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"must be a whole number from 0 on, got {_short(value)}")
    return value


def names(value: Any) -> tuple[str, ...]:
    """The value, which must be a list of distinct texts; raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"must be a list of names, got {_short(value)}")
    if len(set(value)) != len(value):
        raise ValueError("has a name twice")
    return tuple(value)


def misread(error: Exception) -> str:
    """What is wrong with a JSON tree that raised this error, in terms of JSON and not of Python."""
    if isinstance(error, KeyError):
        return f"has no key {_short(error.args[0])}"
    if isinstance(error, TypeError | AttributeError):
        return "a value is of another type than it must be"
    return str(error)


def json_type(value: Any) -> str:
    """JSON's name for the type of a value, as in "a number"."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _short(value: object) -> str:
    text = ascii(value) if type(value) is not int or abs(value) < 1 << 999 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
