"""What a rule between keys is, and how the nearest legal values are found.

A rule says when it applies, when it is satisfied, and which values of which keys could fix it. Values are
tried against the rule itself and against every rule that the config satisfies, so that whatever is suggested
is legal.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pretrain.config import derived
from pretrain.config.node import Problem, SourceLocation
from pretrain.config.sections import LARGEST_COUNT, Config

C = TypeVar("C", bound=Config, covariant=True)
R = TypeVar("R", bound=Config, contravariant=True)

PROCESSES = "processes"
"""Stands for the world size among names of keys."""
SUGGESTIONS = 3
"""Legal values that are suggested per key."""
TRIED = 64
"""Multiples tried on either side of a value."""


@dataclass(frozen=True)
class Setup(Generic[C]):
    """A config and the number of processes, if known."""

    config: C
    world_size: int | None

    @property
    def data_parallel(self) -> int | None:
        """Replicas; None if the world size is not known or does not fit the layout."""
        if self.world_size is None:
            return None
        return derived.data_parallel_size(self.config, self.world_size)

    def value(self, key: str) -> object:
        value: object = self.world_size if key == PROCESSES else self.config
        for part in [] if key == PROCESSES else key.split("."):
            value = getattr(value, "async_" if part == "async" else part)
        return value

    def replaced(self, key: str, value: float) -> "Setup[C]":
        if key == PROCESSES:
            return Setup(self.config, int(value))
        section, name = key.split(".")
        changed = getattr(self.config, section).model_copy(update={name: value})
        return Setup(self.config.model_copy(update={section: changed}), self.world_size)


Number = Callable[[Setup[R]], int]
Message = str | Callable[[Setup[R]], str]
"""A text with values as in `{batch.global_size}`, or a function that makes one."""
Remedies = dict[str, Callable[[Setup[R]], Iterable[float]]]
"""Key -> values of it that could fix a rule, nearest first."""


@dataclass(frozen=True)
class Rule(Generic[R]):
    """One rule; `holds` and `message` are called only if it `applies`."""

    name: str
    key: str
    """The key that the message is about."""
    holds: Callable[[Setup[R]], bool]
    message: Message[R]
    applies: Callable[[Setup[R]], bool] = lambda setup: True
    remedies: Remedies[R] = field(default_factory=dict)

    def broken(self, setup: Setup[R]) -> bool:
        return self.applies(setup) and not self.holds(setup)

    def text(self, setup: Setup[R]) -> str:
        """What is wrong, without suggestions."""
        if isinstance(self.message, str):
            return self.message.format(**vars(setup.config))
        return self.message(setup)


def unless(name: str, key: str, useless: Callable[[Setup[R]], bool], message: str) -> Rule[R]:
    """A rule that is broken if the key was given and `useless` says that it changes nothing."""

    def given(setup: Setup[R]) -> bool:
        value = setup.value(key)
        return value is not None and value is not False and value != ()

    return Rule(name, key, applies=given, holds=lambda setup: not useless(setup), message=message)


def only_with(name: str, key: str, other: str, *values: str) -> Rule[Any]:
    """A rule that `key` is given only where the key `other` has one of these values, else without effect."""
    short, (*firsts, last) = other.rpartition(".")[2], values
    right = f" to {', '.join(firsts)} or {last}" if firsts else f": {last}"
    message = f"has no effect with {short} {{{other}}}; remove it, or set {short}{right}"
    return unless(name, key, lambda setup: setup.value(other) not in values, message)


def only_beside(name: str, key: str, other: str) -> Rule[Any]:
    """A rule that `key` is given only where the key `other` is, else without effect."""
    message = f"has no effect without {other}; set {other}, or remove it"
    return unless(name, key, lambda setup: setup.value(other) is None, message)


def not_beside(name: str, key: str, other: str) -> Rule[Any]:
    """A rule that only one of two keys is given."""
    message = f"and {other} exclude each other; remove one of them"
    return unless(name, key, lambda setup: setup.value(other) is not None, message)


def number(key: str) -> Number[Any]:
    """The integer value of a key; 1 if it is not given."""
    return lambda setup: int(setup.value(key) or 1)  # type: ignore[call-overload]


def multiples(key: str, unit: Number[Any], value: Number[Any] | None = None) -> Remedies[Any]:
    """Multiples of `unit` for a key that is given, or that counts as `value`."""
    given = value or number(key)
    return {key: lambda s: multiples_near(given(s), unit(s)) if value or s.value(key) is not None else ()}


def divisors(key: str, whole: Number[Any]) -> Remedies[Any]:
    """Divisors of `whole` for a key that is given."""
    given = number(key)
    return {key: lambda s: divisors_near(given(s), whole(s)) if s.value(key) is not None else ()}


def divides(
    name: str,
    key: str,
    whole: str,
    message: Message[R],
    *,
    value: Number[R] | None = None,
    applies: Callable[[Setup[R]], bool] = lambda setup: True,
    remedies: Remedies[Any] | None = None,
) -> Rule[R]:
    """A rule that the number of `key` divides that of the key `whole`, which counts as `value`."""
    small, large = number(key), value or number(whole)
    found = divisors(key, large) | multiples(whole, small, value) | (remedies or {})
    return Rule(name, key, lambda s: large(s) % small(s) == 0, message, applies, found)


def multiple_of(
    name: str,
    key: str,
    unit: Number[R],
    message: Message[R],
    *,
    applies: Callable[[Setup[R]], bool] = lambda setup: True,
    remedies: Remedies[Any] | None = None,
) -> Rule[R]:
    """A rule that the number of `key` is a multiple of `unit`."""
    given, found = number(key), multiples(key, unit) | (remedies or {})
    return Rule(name, key, lambda s: given(s) % unit(s) == 0, message, applies, found)


@dataclass(frozen=True)
class Violation:
    """A rule that a config breaks."""

    rule: str
    key: str
    value: object
    message: str
    suggestions: Mapping[str, tuple[float, ...]]
    """Key -> its nearest legal values, with all other keys unchanged."""

    @property
    def text(self) -> str:
        parts = [
            f"{key} {' or '.join(map(str, values))}" for key, values in self.suggestions.items() if values
        ]
        return self.message + (f" (nearest legal: {'; '.join(parts)})" if parts else "")

    def problem(self, sources: Mapping[str, SourceLocation]) -> Problem:
        """The violation, at the line of its key."""
        return Problem(sources.get(self.key, SourceLocation("command line")), self.key, self.text)


def broken_rules(rules: Sequence[Rule[Any]], setup: Setup[Any]) -> list[Violation]:
    """Every rule that the setup breaks, each with the nearest legal values."""
    kept = [rule for rule in rules if not rule.broken(setup)]
    found = []
    for rule in rules:
        if rule.broken(setup):
            suggestions = {
                key: _nearest_legal(rule, kept, key, remedy(setup), setup)
                for key, remedy in rule.remedies.items()
            }
            found.append(Violation(rule.name, rule.key, setup.value(rule.key), rule.text(setup), suggestions))
    return found


def _nearest_legal(
    rule: Rule[Any], kept: Sequence[Rule[Any]], key: str, candidates: Iterable[float], setup: Setup[Any]
) -> tuple[float, ...]:
    legal: list[float] = []
    for value in candidates:
        if value in legal:
            continue
        changed = setup.replaced(key, value)
        if not rule.broken(changed) and not any(other.broken(changed) for other in kept):
            legal.append(value)
        if len(legal) == SUGGESTIONS:
            break
    return tuple(sorted(legal))


def multiples_near(value: int, unit: int) -> Iterator[int]:
    """Positive multiples of `unit`, the nearest to `value` first."""
    below = value // unit
    near = range(max(1, below - TRIED), below + TRIED + 1)
    within = (unit * count for count in near if unit * count <= LARGEST_COUNT)
    return iter(sorted(within, key=lambda multiple: abs(multiple - value)))


def divisors_near(value: int, number: int) -> Iterator[int]:
    """Divisors of `number`, the nearest to `value` first; none of 0."""
    small = [count for count in range(1, math.isqrt(number) + 1) if number % count == 0]
    every = {*small, *(number // count for count in small)}
    return iter(sorted(every, key=lambda divisor: (abs(divisor - value), divisor)))
