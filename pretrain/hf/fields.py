"""How the fields of a config.json and the keys of a config of ours say the same thing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrain.config.sections import TextConfig
from pretrain.errors import UserError

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """Fields of theirs and keys of ours with one meaning."""

    fields: tuple[str, ...]
    keys: tuple[str, ...]
    """Of the section `model`, or with the name of their section before them."""
    read: Callable[[Any], Values]
    """Keys, from a transformers config. Raises UserError for a value that ours does not have."""
    write: Callable[[Any], Values]
    """Fields, from a config of ours."""
    allowed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """The values that a key may have, where not every one has a counterpart."""


def plain(name: str, key: str, derived: Callable[[Any], Any] | None = None) -> Part:
    """One field, one key, the same values.

    Args:
        derived: from `config.model`, what the key means if it is null.
    """
    section, _, last = key.rpartition(".")

    def write(config: TextConfig) -> Values:
        of = getattr(config, section or "model")
        return {name: derived(of) if derived else getattr(of, last)}

    return Part((name,), (key,), lambda theirs: {key: getattr(theirs, name)}, write)


def renamed(name: str, key: str, values: Values) -> Part:
    """One field, one key, their value -> ours; of several with the same meaning, the first is written."""
    back = {ours: theirs for theirs, ours in reversed(values.items())}

    def read(theirs: Any) -> Values:
        value = getattr(theirs, name)
        supports(theirs, name, value, *values)
        return {key: values[value]}

    return Part(
        (name,),
        (key,),
        read,
        lambda config: {name: back[getattr(config.model, key)]},
        {key: tuple(back)},
    )


def only(name: str, *allowed: object) -> Part:
    """A field without a key of ours: it has to have one of these values, and the first is written."""

    def read(theirs: Any) -> Values:
        supports(theirs, name, getattr(theirs, name, allowed[0]), *allowed)
        return {}

    return Part((name,), (), read, lambda config: {name: allowed[0]})


def dropout(*names: str) -> Part:
    """Our one dropout: theirs if they are all equal, else 0. It matters only to training."""

    def read(theirs: Any) -> Values:
        values = [float(getattr(theirs, name)) for name in names]
        return {"dropout": values[0] if len({*values}) == 1 else 0.0}

    return Part(names, ("dropout",), read, lambda config: dict.fromkeys(names, config.model.dropout))


def zero_if_absent() -> Part:
    """Linear layers have biases in each model of theirs; those that ours does not have are zero there."""
    return Part((), ("bias",), lambda theirs: {"bias": True}, lambda config: {})


def bias(*names: str) -> Part:
    """Biases of all linear layers, or of none; each field says it for some of the layers."""

    def read(theirs: Any) -> Values:
        value = getattr(theirs, names[0])
        for name in names[1:]:
            supports(theirs, name, getattr(theirs, name), value)
        return {"bias": value}

    return Part(names, ("bias",), read, lambda config: dict.fromkeys(names, config.model.bias))


def rotary() -> Part:
    """The base of rotary positions."""

    def read(theirs: Any) -> Values:
        rope = theirs.rope_parameters
        for name, value in rope.items():
            if name == "rope_type":
                supports(theirs, f"rope_parameters.{name}", value, "default")
            elif name == "partial_rotary_factor":
                supports(theirs, f"rope_parameters.{name}", value, 1)
            elif name != "rope_theta":
                unknown(f"rope_parameters.{name}", value)
        supports(theirs, "the fraction of rope_parameters.rope_theta", rope["rope_theta"] % 1, 0)
        return {"rotary_base": int(rope["rope_theta"])}

    def write(config: TextConfig) -> Values:
        base = float(config.model.rotary_base or 10_000)
        return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}

    fields = ("rope_parameters", "rope_theta", "rope_scaling")  # the last two before transformers 5
    return Part(fields, ("rotary_base",), read, write)


def supports(theirs: Any, name: str, value: object, *allowed: object) -> None:
    """Refuse a value of a transformers config. Raises UserError if it is not in `allowed`."""
    if value not in allowed:
        known = ", ".join(str(each) for each in allowed)
        raise UserError(
            f"{name}: {value!r} in the config.json of a {theirs.model_type} is not supported; {known} is"
        )


def unknown(name: str, value: object) -> None:
    """Refuse a field. Raises UserError."""
    raise UserError(
        f"{name}: {ascii(value)[:60]} is not known here and may change what the model computes; "
        "if it does not, remove it from the file"
    )
