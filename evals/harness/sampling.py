"""How a task wants its text to be generated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evals.harness.definition import Definition, hint
from pretrain.errors import UserError
from pretrain.sampling import Sampling

MOST_TOKENS = 256
"""Default where a task does not say; as in the harness."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWING = ("temperature", "top_k", "top_p")
_KNOWN = (*_LENGTHS, "until", "do_sample", *_DRAWING)


@dataclass(frozen=True)
class Generation:
    """What to generate after each context."""

    until: tuple[str, ...]
    """The text ends before the first of these."""
    max_tokens: int
    sampling: Sampling

    def cut(self, text: str) -> str:
        """The text up to the first stop string."""
        for stop in self.until:
            text = text.split(stop)[0]
        return text

    def ends(self, text: str) -> bool:
        """Whether the text contains a stop string."""
        return any(stop in text for stop in self.until)


def generation_of(definition: Definition) -> Generation:
    """The settings in a definition's `generation_kwargs`; raises UserError naming what is wrong with them."""
    given = definition.settings.get("generation_kwargs")
    where = f"{definition.file.path}: generation_kwargs"
    if given is not None and not isinstance(given, dict):
        raise UserError(
            f"{where} must be a mapping such as {{until: ['.'], max_gen_toks: 20}}, got {given!r}"
        )
    for key in given or {}:
        if key not in _KNOWN:
            raise UserError(f"{where}.{key} has no effect ({hint(key, _KNOWN)})")
    try:
        return parse_generation(given or {})
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None


def parse_generation(given: Mapping[str, Any]) -> Generation:
    """From the arguments of a request; raises ValueError or TypeError for invalid values."""
    lengths = [int(given[key]) for key in _LENGTHS if given.get(key) is not None]
    if len(lengths) > 1 or min(lengths, default=1) < 1:
        raise ValueError(f"give one length, at least 1, with {_LENGTHS[0]}")
    until = given.get("until") or []
    stops = tuple(until if isinstance(until, list) else [until])
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"until must be a list of texts, got {until!r}")
    temperature = float(given.get("temperature") or 0)
    drawn = given.get("do_sample")
    drawn = temperature > 0 if drawn is None else bool(drawn)
    useless = [key for key in _DRAWING if given.get(key)] if not drawn else []
    if useless:
        raise ValueError(f"{useless[0]} has no effect without do_sample: true")
    sampling = Sampling(greedy=True)
    if drawn:
        top_p = given.get("top_p")
        sampling = Sampling(temperature=temperature or 1.0, top_k=given.get("top_k"), top_p=top_p)
    return Generation(stops, lengths[0] if lengths else MOST_TOKENS, sampling)
