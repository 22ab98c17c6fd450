"""Text from a checkpoint, in one process, whatever layout wrote it."""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from data_tools.tokenizer import Tokenizer
from pretrain.config.narrow import narrow
from pretrain.config.sections import GptConfig, ParallelConfig
from pretrain.errors import HealthError, UserError
from pretrain.launch import join_world
from pretrain.layout import build_layout
from pretrain.model import Model
from pretrain.restore import load_model, load_tokenizer, open_saved, with_layout
from pretrain.sampling import SEEDS, Sampling


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token.

    Args:
        logits_V: [vocabulary], any float dtype.
        sampling: temperature, then top-k, then top-p (nucleus sampling, Holtzman et al. 2020).
        generator: on the CPU, so that a seed means the same text on every device.

    Raises:
        HealthError: a logit is not finite.
    """
    scores = logits_V.double().cpu()
    if not bool(scores.isfinite().all()):
        raise HealthError("the model's logits are not finite: its weights are not fit for use")
    # By logit and not by probability: two logits that differ may round to the same probability.
    scores, order = scores.sort(descending=True, stable=True)
    if sampling.greedy:
        return int(order[0])
    # Taken from the largest first, so that no temperature overflows.
    probabilities = torch.softmax((scores - scores[0]) / sampling.temperature, -1)
    if sampling.top_k is not None:
        probabilities[sampling.top_k :] = 0
    if sampling.top_p is not None:
        kept = probabilities / probabilities.sum()
        probabilities[kept.cumsum(-1) - kept >= sampling.top_p] = 0  # the one that crosses the limit stays
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


@torch.no_grad()
def next_logits(model: Model, tokens: list[int]) -> Tensor:
    """Logits of the token after `tokens`, [vocabulary]; only the last `sequence_length` of them are seen."""
    context = tokens[-model.config.batch.sequence_length :]
    ids = torch.tensor([context], device=model.layout.device)
    positions = torch.arange(len(context), device=model.layout.device)[None]
    model.wrapped[0].eval()
    logits_BSV: Tensor = model.wrapped[0](ids, positions, None)
    return logits_BSV[0, -1, : model.chunks[0].true_vocab_size]


def generate(model: Model, prompt: list[int], eod: int, max_tokens: int, sampling: Sampling) -> Iterator[int]:
    """Draw tokens until the end of the document or `max_tokens`."""
    generator = torch.Generator().manual_seed(sampling.seed)
    # A text begins as a document does: after the end of another. Where attention was reset at the ends of
    # documents, the model never saw that end together with what follows it.
    alone = narrow(model.config, GptConfig, "generating text").data.reset_at_document_end
    text = list(prompt)
    for _ in range(max_tokens):
        token = choose(next_logits(model, text if alone and text else [eod, *text]), sampling, generator)
        if token == eod:
            return
        text.append(token)
        yield token


def generate_text(checkpoint: str, prompt: str, max_tokens: int, sampling: Sampling) -> str:
    """The prompt's continuation.

    Raises:
        UserError, IntegrityError: no good checkpoint, a prompt that is not Unicode, a seed that is too large.
    """
    if "\0" in checkpoint:
        raise UserError(f"checkpoint path {checkpoint!r} holds a NUL byte")
    if not 0 <= sampling.seed < SEEDS:
        raise UserError(f"--seed {sampling.seed}: at least 0 and at most {SEEDS - 1}")
    saved = open_saved(checkpoint, _say)
    narrow(saved.config, GptConfig, f"generating text from {saved.checkpoint.path}")
    tokenizer = load_tokenizer(saved)
    ids = _encode(tokenizer, prompt, saved.config.batch.sequence_length)
    config = with_layout(saved.config, ParallelConfig())
    with join_world() as world:
        if world.size > 1:
            raise UserError(f"pretrain generate runs in one process, not as one of {world.size} ranks")
        model = load_model(saved, config, build_layout(world, config.parallel))
        drawn = list(generate(model, ids, tokenizer.eod_id, max_tokens, sampling))
    return tokenizer.decode(drawn)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _encode(tokenizer: Tokenizer, prompt: str, sequence_length: int) -> list[int]:
    try:
        ids = tokenizer.encode(prompt)
    except UserError as error:
        raise UserError(f"--prompt {prompt!r}: {error}") from None
    if len(ids) > sequence_length:
        _say(f"the prompt has {len(ids):,} tokens; the model sees the last {sequence_length:,} of them")
    return ids


def generate_command(checkpoint: str, prompt: str, max_tokens: int, sampling: Sampling) -> None:
    """`pretrain generate`: print the prompt and its continuation."""
    print(prompt + generate_text(checkpoint, prompt, max_tokens, sampling))
