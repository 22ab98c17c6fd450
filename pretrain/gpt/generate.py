"""Text from a checkpoint of any layout, on one rank or many."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from data_tools.tokenizer import Tokenizer
from pretrain.checkpoint import resolve
from pretrain.checkpoint.tokenizer import load_tokenizer
from pretrain.config.generate_request import GenerateRequest
from pretrain.config.load import load_config, require_kind
from pretrain.config.schema import nearest_name
from pretrain.config.sections import DecoderConfig, ParallelConfig
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.launcher import RankInfo, ranks_to_start, read_rank_info
from pretrain.distributed.spawn import spawn
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError
from pretrain.gpt.decoding import Decoder
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.pipeline import PipelineModel
from pretrain.megatron.restore import RESOLVED_CONFIG, SavedModel, load_model, open_saved_model, with_layout
from pretrain.run.exit import print_error
from pretrain.sampling import SEEDS, Sampling, choose, require_seed, show

OVERRIDES = ("parallel.tensor", "parallel.pipeline")
"""Keys that have an effect on text generation."""


def generate(
    model: PipelineModel,
    prompts: Sequence[Sequence[int]],
    eod: int,
    max_tokens: int,
    sampling: Sampling,
    *,
    cached: bool = True,
    begin: Sequence[int] = (),
) -> list[list[int]]:
    """Draw tokens for each prompt, as the beginning of a document; otherwise as `continue_texts`.

    begin: what the tokenizer puts before each text.
    """
    if begin:
        texts = [[*begin, *prompt] for prompt in prompts]
        return continue_texts(model, texts, eod, max_tokens, sampling, cached=cached)
    # A document begins after the end of another, so the prompt follows that token. But a model whose
    # attention was reset at the ends of documents never saw the token together with what follows it.
    alone = model.config.resets_at_document_end
    texts = [list(prompt) if alone and prompt else [eod, *prompt] for prompt in prompts]
    return continue_texts(model, texts, eod, max_tokens, sampling, cached=cached)


def continue_texts(
    model: PipelineModel,
    texts: Sequence[Sequence[int]],
    eod: int,
    max_tokens: int,
    sampling: Sampling,
    *,
    cached: bool = True,
    tell: Callable[[int], None] = lambda _: None,
    enough: Callable[[Sequence[int]], bool] = lambda _: False,
) -> list[list[int]]:
    """Draw tokens after each text until the end of the document or `max_tokens`.

    All ranks of a replica call this together.

    Args:
        texts: token ids of each, one or more.
        eod: id of the end of a document.
        sampling: how to draw. Text i has a generator of its own, with seed `sampling.seed` + i.
        cached: keep keys and values of the tokens so far.
        tell: told of each token of the first text as it is drawn, except the end.
        enough: whether a continuation, as far as it has been drawn, may end.

    Returns:
        The continuations, without the end of the document.
    """
    generators = [torch.Generator().manual_seed((sampling.seed + i) % SEEDS) for i in range(len(texts))]
    rows = [list(text) for text in texts]
    starts, ended = [len(text) for text in texts], [False] * len(texts)
    with Decoder(model, len(texts), max(starts) + max_tokens, cached=cached) as decoder:
        for _ in range(max_tokens):
            logits_BV = decoder.next_logits(rows)
            for row, text in enumerate(rows):
                # A text that has ended stays in the batch; what follows its end is never read.
                token = eod if ended[row] else choose(logits_BV[row], sampling, generators[row])
                text.append(token)
                ended[row] = ended[row] or token == eod or enough(text[starts[row] :])
            if not ended[0]:
                tell(rows[0][-1])
            if all(ended):
                break
    drawn = [text[start:] for text, start in zip(rows, starts, strict=True)]
    return [row[: row.index(eod)] if eod in row else row for row in drawn]


@dataclass(frozen=True)
class TextGenerator:
    """A model that generates text, on this rank, with its checkpoint and tokenizer."""

    saved: SavedModel
    model: PipelineModel
    tokenizer: Tokenizer


def open_text_generator(
    checkpoint: str,
    world: DistContext,
    overrides: Sequence[str] = (),
    require: Callable[[SavedModel], None] = lambda _: None,
) -> TextGenerator:
    """Load a checkpoint for generation; all ranks together.

    Args:
        checkpoint: run directory (its newest good checkpoint) or one step folder in it.
        world: as many ranks as the layout has.
        overrides: `section.key=value` texts; `OVERRIDES` lists the keys.
        require: raises an error for an unsuitable checkpoint, before its weights are read.

    Raises:
        UserError, IntegrityError: no good checkpoint, or a layout that does not fit.
    """
    if "\0" in checkpoint:
        raise UserError(f"checkpoint path {checkpoint!r} holds a NUL byte")
    saved = open_saved_model(
        broadcast_from_rank0(world, lambda: str(resolve(checkpoint, progress_printer(world))))
    )
    config = require_kind(saved.config, DecoderConfig, f"generating text from {saved.checkpoint.path}")
    require(saved)
    parallel = layout_for(str(saved.checkpoint.path / RESOLVED_CONFIG), overrides, world.size)
    tokenizer = load_tokenizer(saved.checkpoint)
    layout = build_parallel_dims(world, parallel)
    spread_out = with_layout(config, parallel)
    model = load_model(saved, spread_out, layout, GptSpec(spread_out, layout))
    return TextGenerator(saved, model, tokenizer)


def generate_texts(
    checkpoint: str,
    prompts: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    world: DistContext,
    *,
    overrides: Sequence[str] = (),
    cached: bool = True,
) -> list[str]:
    """The continuations of several prompts, all ranks together.

    Args:
        prompts: texts to continue.
        cached: as in `continue_texts`.

    Raises:
        UserError, IntegrityError: no good checkpoint, a prompt that is not Unicode, a seed that is too large,
            or a layout that does not fit.
    """
    require_seed(sampling)
    generator = open_text_generator(checkpoint, world, overrides)
    tokenizer, length = generator.tokenizer, generator.saved.config.batch.sequence_length
    ids = [_encode(tokenizer, prompt, length, progress_printer(world)) for prompt in prompts]
    drawn = generate(
        generator.model,
        ids,
        tokenizer.eod_id,
        max_tokens,
        sampling,
        cached=cached,
        begin=tokenizer.begin_ids,
    )
    return [tokenizer.decode(row) for row in drawn]


def layout_for(path: str, overrides: Sequence[str], ranks: int) -> ParallelConfig:
    """The layout to generate on: one rank, unless the overrides say otherwise.

    Args:
        path: resolved config of the checkpoint.
        ranks: in the world.

    Raises:
        UserError: an override without effect, or a layout of another number of ranks.
    """
    given = [override.partition("=")[0] for override in overrides]
    for key in given:
        if key not in OVERRIDES:
            meant = nearest_name(key, OVERRIDES)
            hint = f"did you mean '{meant}'?" if meant else f"these have: {', '.join(OVERRIDES)}"
            raise UserError(f"{key} has no effect on the generation of text; {hint}")
    defaults = ParallelConfig().model_dump()
    plain = {f"parallel.{key}": "null" if v is None else str(v).lower() for key, v in defaults.items()}
    others = [f"{key}={value}" for key, value in plain.items() if key not in given]
    config = load_config(path, [*others, *overrides], saved=True).config
    parallel = require_kind(config, DecoderConfig, "generating text").parallel
    if parallel.ranks != ranks:
        raise UserError(
            f"parallel.tensor {parallel.tensor} x parallel.pipeline {parallel.pipeline} are {parallel.ranks} "
            f"ranks, and this runs on {ranks}: set --processes {parallel.ranks}, or another layout"
        )
    return parallel


def progress_printer(world: DistContext) -> Callable[[str], None]:
    """Prints lines on standard error, on the first rank only."""
    return print_error if world.is_first else lambda _: None


def _encode(
    tokenizer: Tokenizer, prompt: str, sequence_length: int, tell: Callable[[str], None]
) -> list[int]:
    try:
        ids = tokenizer.encode(prompt)
    except UserError as error:
        raise UserError(f"--prompt {prompt!r}: {error}") from None
    if len(ids) > sequence_length:
        tell(f"the prompt has {len(ids):,} tokens; the model sees the last {sequence_length:,} of them")
    return ids


def generate_command(request: GenerateRequest) -> None:
    """`pretrain generate`: print each prompt and its continuation, on one rank or on many."""
    prompts, sampling, overrides = request.texts(), request.sampling(), request.overrides or ()
    info = read_rank_info(os.environ)
    spawn_ranks(info, request, prompts, sampling)
    with init_distributed(info) as world:
        texts = generate_texts(
            request.checkpoint, prompts, request.tokens, sampling, world, overrides=overrides
        )
        if world.is_first:
            show(prompts, texts)


def spawn_ranks(
    info: RankInfo, request: GenerateRequest, prompts: Sequence[str], sampling: Sampling, *options: str
) -> None:
    """Start the ranks of `pretrain generate` and exit with their code, if more than this process are wanted.

    Raises UserError if a launcher has started another number of ranks.
    """
    ranks = ranks_to_start(info, request.processes)
    if ranks > 1:
        arguments = [*options, f"--max-tokens={request.tokens}", *sampling.options()]
        arguments += [f"--prompt={prompt}" for prompt in prompts]
        arguments += ["--", request.checkpoint, *(request.overrides or ())]
        sys.exit(spawn([sys.executable, "-m", "pretrain", "generate", *arguments], ranks))
