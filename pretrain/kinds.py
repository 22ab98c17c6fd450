"""The kinds of models, by `model.kind`: the one place that names them all.

A kind is a folder with a record (`pretrain.kind.Kind`) and one line here. Commands, Slurm jobs, evaluations
and the reading of configs ask the record, and nothing asks which kind it is; what the record returns knows
nothing of this table. The table holds names, so that a command imports only the records of the kinds that it
meets, and what those import.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.config.sections import Config
    from pretrain.kind import Kind

RECORDS: Mapping[str, str] = MappingProxyType(
    {
        "gpt": "pretrain.gpt.kind:GPT",
        "gpt-chat": "pretrain.gpt.kind:CHAT",
        "bert": "pretrain.bert.kind:BERT",
        "bert-classifier": "pretrain.bert.kind:CLASSIFIER",
        "bert-tagger": "pretrain.bert.kind:TAGGER",
        "gan": "pretrain.gan.kind:GAN",
        "cnn": "pretrain.cnn.kind:CNN",
        "rnn": "pretrain.rnn.kind:RNN",
    }
)
"""`model.kind` -> module and name of its record."""


@cache
def kind_named(name: str) -> "Kind[Any, Any]":
    """The record of a `model.kind`, which must exist."""
    found: Kind[Any, Any] = resolve_name(RECORDS[name])
    assert found.name == name, f"{RECORDS[name]} is the record of {found.name}, not of {name}"
    return found


def kind_of(config: "Config") -> "Kind[Any, Any]":
    """The record of a config's kind."""
    return kind_named(config.model.kind)


def every_kind() -> Iterator["Kind[Any, Any]"]:
    return map(kind_named, RECORDS)


def configs() -> Mapping[str, type["Config"]]:
    """`model.kind` -> what a config of that kind holds."""
    return {kind.name: kind.config for kind in every_kind()}
