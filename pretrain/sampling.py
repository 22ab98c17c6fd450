"""How the next token is drawn; does not import torch, so that wrong options are refused at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.errors import HealthError, UserError

if TYPE_CHECKING:
    import torch

SEEDS = 2**64
"""Number of seeds that torch's generator accepts."""


@dataclass(frozen=True)
class Sampling:
    """Options of how the next token is drawn."""

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
    """The options that were given, validated.

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


def choose(logits_V: "torch.Tensor", sampling: Sampling, generator: "torch.Generator") -> int:
    """The next token.

    Args:
        logits_V: [vocabulary], any float dtype.
        sampling: temperature, then top-k, then top-p (nucleus sampling, Holtzman et al. 2020).
        generator: on the CPU, so that a seed gives the same text on every device.

    Raises:
        HealthError: a logit is not finite.
    """
    import torch

    scores = logits_V.double().cpu()
    if not bool(scores.isfinite().all()):
        raise HealthError("the model's logits are not finite: its weights are not fit for use")
    # By logit and not by probability: two different logits may round to the same probability.
    if sampling.greedy:
        return int(scores.argmax())
    scores, order = scores.sort(descending=True, stable=True)
    # The largest logit is subtracted first, so that no temperature overflows.
    probabilities = torch.softmax((scores - scores[0]) / sampling.temperature, -1)
    if sampling.top_k is not None:
        probabilities[sampling.top_k :] = 0
    if sampling.top_p is not None:
        kept = probabilities / probabilities.sum()
        # the token that crosses the limit is kept
        probabilities[kept.cumsum(-1) - kept >= sampling.top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def require_seed(sampling: Sampling) -> None:
    """Raise UserError for a seed that is too large."""
    if not 0 <= sampling.seed < SEEDS:
        raise UserError(f"--seed {sampling.seed}: at least 0 and at most {SEEDS - 1}")


def show(prompts: Sequence[str], texts: Sequence[str]) -> None:
    """Print each prompt with its continuation; several are each preceded by their number."""
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
        if len(prompts) > 1:
            print(f"=== {number} of {len(prompts)}")
        print(prompt + text)
