"""How the fields of a config.json and the keys of a config of ours say the same thing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrain.config import derived
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
    back = {ours: theirs for theirs, ours in reversed([*values.items()])}

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


def only(name: str, *allowed: object, written: bool = True) -> Part:
    """A field without a key of ours: it has to have one of these values.

    Args:
        written: an export writes the first of them; False: transformers does not have the field any more.
    """

    def read(theirs: Any) -> Values:
        supports(theirs, name, getattr(theirs, name, allowed[0]), *allowed)
        return {}

    return Part((name,), (), read, lambda config: {name: allowed[0]} if written else {})


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


def head_dim() -> Part:
    """The size of a head, if it is not the hidden size over the heads."""

    def read(theirs: Any) -> Values:
        usual = theirs.hidden_size // theirs.num_attention_heads
        return {"head_size": None if theirs.head_dim in (None, usual) else theirs.head_dim}

    return Part(
        ("head_dim",), ("head_size",), read, lambda config: {"head_dim": derived.head_size(config.model)}
    )


SCALINGS = {
    "linear": {"factor": "rotary_scaling_factor"},
    "llama3": {
        "factor": "rotary_scaling_factor",
        "original_max_position_embeddings": "rotary_original_length",
        "low_freq_factor": "rotary_slow_turns",
        "high_freq_factor": "rotary_fast_turns",
    },
    "yarn": {
        "factor": "rotary_scaling_factor",
        "original_max_position_embeddings": "rotary_original_length",
        "beta_slow": "rotary_slow_turns",
        "beta_fast": "rotary_fast_turns",
        "attention_factor": "rotary_attention_factor",
    },
}
"""Type of a scaling -> its numbers in `rope_parameters` -> our keys."""


def rotary() -> Part:
    """The base of rotary positions, and how their frequencies are scaled."""
    where = "rope_parameters"

    def read(theirs: Any) -> Values:
        rope = {name: value for name, value in theirs.rope_parameters.items() if value is not None}
        scaling = rope.get("rope_type", "default")
        supports(theirs, f"{where}.rope_type", scaling, "default", *SCALINGS)
        supports(theirs, f"{where}.partial_rotary_factor", rope.get("partial_rotary_factor", 1), 1)
        supports(theirs, f"{where}.type", rope.get("type", scaling), scaling)
        supports(theirs, f"{where}.truncate", rope.get("truncate", True), True)
        supports(theirs, f"the fraction of {where}.rope_theta", rope["rope_theta"] % 1, 0)
        names = SCALINGS.get(scaling, {})
        for name in rope.keys() - names.keys():
            if name not in ("rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate"):
                unknown(f"{where}.{name}", rope[name])
        keys = {key: rope[name] for name, key in names.items() if name in rope}
        scaled = {"rotary_scaling": scaling} if names else {}
        return {"rotary_base": int(rope["rope_theta"]), **scaled, **keys}

    def write(config: Any) -> Values:
        model = config.model
        rope = {
            "rope_type": model.rotary_scaling or "default",
            "rope_theta": float(derived.rotary_base(model)),
        }
        names = SCALINGS.get(model.rotary_scaling, {})
        found = {name: getattr(model, key) for name, key in names.items()}
        if model.rotary_scaling == "llama3":  # which has to be told what yarn takes for granted
            found["low_freq_factor"], found["high_freq_factor"] = derived.rotary_turns(model)
        return {where: rope | {name: value for name, value in found.items() if value is not None}}

    keys = {key for names in SCALINGS.values() for key in names.values()}
    fields = (where, "rope_theta", "rope_scaling")  # the last two before transformers 5
    return Part(fields, ("rotary_base", "rotary_scaling", *keys), read, write)


def windows(*fields: str) -> Part:
    """Which layers attend within a window, by the fields that an architecture has for it."""
    kinds = {"sliding_attention": "window", "full_attention": "full"}

    def read(theirs: Any) -> Values:
        layers = getattr(theirs, "layer_types", None) or ["sliding_attention"]
        for layer in layers:
            supports(theirs, "layer_types", layer, *kinds)
        pattern = [kinds[layer] for layer in layers]
        if theirs.sliding_window is None or "window" not in pattern:
            return {}
        every = next(n for n in range(1, 1 + len(pattern)) if pattern[n:] == pattern[:-n])
        repeated = None if every == 1 else tuple(pattern[:every])
        return {"window": theirs.sliding_window, "window_pattern": repeated}

    def write(config: Any) -> Values:
        model = config.model
        layers = ["sliding_attention" if window else "full_attention" for window in derived.windows(model)]
        found = {
            "sliding_window": model.window,
            "use_sliding_window": model.window is not None,
            "layer_types": layers,
        }
        return {name: found[name] for name in fields if name in found}

    patterns = {} if "layer_types" in fields else {"window_pattern": (None, ("window",))}
    return Part(fields, ("window", "window_pattern"), read, write, patterns)


def attention_scale() -> Part:
    """The number whose root attention scores are divided by."""

    def read(theirs: Any) -> Values:
        scalar = theirs.query_pre_attn_scalar
        return {"attention_scale": None if scalar == theirs.head_dim else scalar**-0.5}

    def write(config: Any) -> Values:
        scale = config.model.attention_scale
        return {"query_pre_attn_scalar": round(scale**-2) if scale else derived.head_size(config.model)}

    return Part(("query_pre_attn_scalar",), ("attention_scale",), read, write)


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
