"""Which method each class of products uses, as text: "fp32=onednn,bf16=torch,bf16.few=widened".

The choice in force is in the environment, so that child processes share it.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

import torch

from pretrain.config.schema import nearest_name
from pretrain.cpu.products.method import METHODS, Method
from pretrain.errors import UserError

VARIABLE = "PRETRAIN_CPU_PRODUCTS"
AUTO = "auto"
"""The value that means no choice: measure."""
TORCH = "torch"
FEW_ROWS = 16
"""A forward product of at most this many rows counts as one of few rows: it is bound by memory, not by
arithmetic."""

TYPES: Mapping[str, torch.dtype] = MappingProxyType({"fp32": torch.float32, "bf16": torch.bfloat16})
PASSES = ("few", "forward", "input_gradient", "weight_gradient")
CLASSES = tuple(f"{dtype}.{each}" for dtype in TYPES for each in PASSES)
_NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in TYPES.items()})

Available: TypeAlias = Collection[tuple[str, str]]
"""Pairs of dtype and method, where the method supports the dtype."""


@dataclass(frozen=True)
class Choice:
    """A method for each class of products."""

    methods: tuple[str, ...]
    """Names, in the order of `CLASSES`."""

    def method(self, dtype: torch.dtype, work: str) -> Method:
        """The method of a product in a dtype; `work` is one of `PASSES`."""
        kind = _NAMES.get(dtype)
        return METHODS[TORCH if kind is None else self.methods[CLASSES.index(f"{kind}.{work}")]]

    def widens(self, dtype: torch.dtype) -> bool:
        """Whether gradients in this dtype are computed in fp32, since its own products are slow here."""
        return self.method(dtype, "input_gradient") is METHODS["widened"]

    @property
    def text(self) -> str:
        """The shortest text of the choice; `parse` reads it."""
        said = []
        for first, kind in zip(range(0, len(CLASSES), len(PASSES)), TYPES, strict=True):
            own = self.methods[first : first + len(PASSES)]
            most = max(METHODS, key=own.count)
            said.append(f"{kind}={most}")
            said += [f"{kind}.{each}={name}" for each, name in zip(PASSES, own, strict=True) if name != most]
        return ",".join(said)

    def lacking(self, available: Available) -> list[str]:
        """The methods that it needs and that are not available, such as "bf16=onednn"."""
        pairs = dict.fromkeys(zip((each.split(".")[0] for each in CLASSES), self.methods, strict=True))
        return [f"{kind}={name}" for kind, name in pairs if (kind, name) not in available]


def available_here() -> tuple[tuple[str, str], ...]:
    """What this build of torch and this processor support."""
    return tuple(
        (kind, name) for kind, dtype in TYPES.items() for name, each in METHODS.items() if each.has(dtype)
    )


def parse(text: str, available: Available) -> Choice:
    """The choice in a text: one method for everything that supports it, or a comma-separated list of
    `type=method` and `type.pass=method`.

    Raises:
        UserError: a word is unknown, or a method is not available for the type that is named.
    """
    methods = dict.fromkeys(CLASSES, TORCH)
    for part in filter(None, (each.strip() for each in text.split(","))):
        where, _, name = part.rpartition("=")
        if name not in METHODS:
            raise UserError(f"{VARIABLE}={text}: {part!r} names no method{_instead(name, METHODS)}")
        among = [each for each in CLASSES if where in ("", each, each.split(".")[0])]
        if not among:
            raise UserError(
                f"{VARIABLE}={text}: no products are {where!r}{_instead(where, (*TYPES, *CLASSES))}"
            )
        having = [each for each in among if (each.split(".")[0], name) in available]
        if not having or (where and len(having) < len(among)):
            raise UserError(
                f"{VARIABLE}={text}: {part!r} cannot be had, in this build of torch or on this processor; "
                f"there are {', '.join(f'{kind}={other}' for kind, other in available)}"
            )
        methods.update(dict.fromkeys(having, name))
    return Choice(tuple(methods.values()))


def _instead(word: str, names: Collection[str]) -> str:
    meant = nearest_name(word, names)
    return f"; did you mean '{meant}'?" if meant else f"; there are {', '.join(names)}"


def in_force() -> Choice:
    """The choice that this process uses: torch's own until one is settled."""
    return _parsed(os.environ.get(VARIABLE, TORCH))


@cache
def _parsed(text: str) -> Choice:
    return parse(TORCH if text == AUTO else text, available_here())
