"""Perplexity of a language model by token, word and byte, and bits per byte, from one sum of losses.

All of them divide the same number, the negative log-likelihood of the scored tokens, by different counts.
Token perplexity compares models of one tokenizer only. The others do not depend on the tokenizer.
"""

import math

from evals.text import TextSize
from pretrain.errors import HealthError

DEFINITIONS = {
    "validation_loss": "NLL / tokens_scored, in nats",
    "validation_loss_error": "its standard error, standard deviation / sqrt(tokens_scored), as if tokens "
    "were independent",
    "token_perplexity": "exp(NLL / tokens_scored)",
    "word_perplexity": "exp(NLL / words)",
    "byte_perplexity": "exp(NLL / bytes)",
    "bits_per_byte": "NLL / (ln 2 x bytes)",
    "tokens_scored": "labels scored: each token of each source once, but for its first, which nothing "
    "precedes; ends of documents included",
    "words": "whitespace-separated words (Python's str.split) of the scored tokens' text, per document",
    "bytes": "UTF-8 bytes of the scored tokens' decoded text",
    "NLL": "sum of -ln p(token | tokens before it in its window) over the scored tokens, in nats, from "
    "float32 losses summed in float64",
    "window": "sequence_length tokens of context at most; a window begins stride tokens after the one "
    "before, and scores only the labels that no window before it has scored",
}


def perplexities(nll: float, tokens: int, size: TextSize) -> dict[str, float]:
    """Metric name -> value, as DEFINITIONS says; word and byte metrics only where there are words and bytes.

    nll: nats, summed over `tokens` labels, whose text has `size`. Raises HealthError when it is not finite.
    """
    require_finite(nll, f"{tokens:,} tokens")
    found: dict[str, float] = {"token_perplexity": _exp(nll / tokens)}
    if size.words:
        found["word_perplexity"] = _exp(nll / size.words)
    if size.bytes:
        found["byte_perplexity"] = _exp(nll / size.bytes)
        found["bits_per_byte"] = nll / (math.log(2) * size.bytes)
    counts = {"tokens_scored": tokens, "words": size.words, "bytes": size.bytes}
    return {**found, "validation_loss": nll / tokens, **counts}


def require_finite(loss: float, summed_over: str) -> None:
    """Raise HealthError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise HealthError(
            f"the loss summed over {summed_over} is {loss}: the weights hold numbers that are not finite, or "
            "overflow in this precision"
        )


def error_of_share(share: float, count: float) -> float:
    """Standard error of a share of `count` independent answers."""
    return math.sqrt(share * (1 - share) / count)


def standard_error(nll: float, squares: float, tokens: int) -> float:
    """Standard error of the mean loss, from the sums of losses and of their squares."""
    return math.sqrt(max(0.0, squares / tokens - (nll / tokens) ** 2) / tokens)


def _exp(value: float) -> float:
    """e^value; infinity if it overflows, as for a text that is one endless word."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
