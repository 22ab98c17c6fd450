"""How the next token is drawn; no torch, so that wrong options are refused at once."""

from dataclasses import dataclass

from pretrain.errors import UserError

SEEDS = 2**64
"""Seeds that torch's generator takes."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    greedy: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 1234

    def options(self) -> list[str]:
        if self.greedy:
            return ["--greedy"]
        given = {"temperature": self.temperature, "top-k": self.top_k, "top-p": self.top_p, "seed": self.seed}
        return [f"--{name}={value}" for name, value in given.items() if value is not None]


def checked_sampling(
    greedy: bool, temperature: float | None, top_k: int | None, top_p: float | None, seed: int | None
) -> Sampling:
    """How to draw, from the options that were given.

    Raises UserError: an option is out of range, or has no effect.
    """
    drawing = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p, "--seed": seed}
    useless = [name for name, value in drawing.items() if value is not None]
    if greedy and useless:
        raise UserError(f"{useless[0]} has no effect with --greedy; remove one of them")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UserError(
            f"--temperature must be above 0, got {temperature}; for the likeliest token use --greedy"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"--top-p must be above 0 and at most 1, got {top_p}")
    temperature = 1.0 if temperature is None else temperature
    return Sampling(greedy, temperature, top_k, top_p, 1234 if seed is None else seed)
