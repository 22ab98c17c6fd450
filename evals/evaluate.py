"""Score a checkpoint, on any layout.

The weights, the windows and the forward pass are those of the trainer's validation, so with the default
stride exp(validation loss) of the trainer at that step is the token perplexity here.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from evals.answers import Answers
from evals.images.accuracy import evaluate_classifier
from evals.images.options import NO_IMAGE_OPTIONS, ImageOptions
from evals.labelled import LabelledExamples
from evals.masked import MaskedTokens
from evals.next_token import NextToken
from evals.recurrent import evaluate_rnn
from evals.result import Result, spec_of
from evals.setting import evaluation_config
from evals.task import Task
from pretrain.agree import first_decides
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.config.load import read_config
from pretrain.config.narrow import narrow
from pretrain.config.sections import (
    BertConfig,
    ChatConfig,
    CnnConfig,
    CorpusConfig,
    FinetuneConfig,
    GanConfig,
    GptConfig,
    ParallelConfig,
    RnnConfig,
    TextConfig,
)
from pretrain.data.cache import shard_cache
from pretrain.data.feed import ValidationFeed
from pretrain.data.sources import open_validation, open_whole
from pretrain.errors import UserError
from pretrain.families.totals import Totals
from pretrain.kept_tokenizer import load_tokenizer
from pretrain.launch import World
from pretrain.layout import Layout, build_layout
from pretrain.model import Model
from pretrain.restore import RESOLVED_CONFIG, Saved, load_model
from pretrain.scoring import score

LIBRARIES = ("pretrain", "torch", "megatron-core")
LayoutOf = Callable[[World, ParallelConfig], Layout]


def evaluate(
    checkpoint: str,
    world: World,
    *,
    stride: int | None = None,
    data: Sequence[str] = (),
    images: ImageOptions = NO_IMAGE_OPTIONS,
    overrides: Sequence[str] = (),
    layout_of: LayoutOf = build_layout,
) -> Result:
    """Score a checkpoint, all ranks together.

    Args:
        checkpoint: run directory (its newest good checkpoint) or one step folder in it.
        stride: tokens that a window moves on; None: a whole sequence, as in the trainer's validation.
        data: shard directories to score in place of the run's validation data.
        overrides: `section.key=value` texts; `evals.setting.OVERRIDES` says which.
        layout_of: makes the groups of ranks, or hands out those that there are.

    Returns:
        The result, on every rank.

    Raises:
        UserError, IntegrityError: the arguments, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    path = Path(first_decides(world, lambda: str(resolve(checkpoint, say))))
    opened = open_checkpoint(path)
    kind = read_config(str(path / RESOLVED_CONFIG), saved=True).config
    if isinstance(kind, CnnConfig):
        return evaluate_classifier(path, world, stride=stride, data=data, images=images, overrides=overrides)
    if isinstance(kind, RnnConfig):
        return evaluate_rnn(path, world, stride=stride, data=data, images=images, overrides=overrides)
    if isinstance(kind, GanConfig):
        from evals.images.gan import evaluate_gan

        return evaluate_gan(
            path, world, stride=stride, data=data, images=images, overrides=overrides, say=say
        )
    images.refuse_all(f"on a {kind.model.kind}")
    tokenizer = load_tokenizer(opened)
    config = evaluation_config(path / RESOLVED_CONFIG, overrides, world.size, data=data)
    task = _open_task(opened, config, data, tokenizer, stride)
    layout = layout_of(world, config.parallel)
    saved = Saved(opened, config, tokenizer.vocab_size)
    model = load_model(saved, config, layout, task.family(layout))
    metrics = task.metrics(_score(model, task.data, layout), model)
    return Result(str(path), opened.step, metrics, _spec(opened, config, task, tokenizer, layout))


def say(line: str) -> None:
    """What is no result goes to stderr."""
    print(line, file=sys.stderr)


def _open_task(
    opened: Checkpoint, config: TextConfig, paths: Sequence[str], tokenizer: Tokenizer, stride: int | None
) -> Task:
    """What the model is for, on `--data`, or else on the run's validation data."""
    if stride is not None and not isinstance(config, GptConfig):
        raise UserError(
            f"--stride {stride} has no effect on a {config.model.kind}, whose samples have no order"
        )
    if isinstance(config, ChatConfig):
        return Answers.over(paths, opened, config, tokenizer)
    if isinstance(config, FinetuneConfig):
        return LabelledExamples.over(paths, opened, config)
    corpus = narrow(config, CorpusConfig, "this evaluation")
    if paths:
        sources = open_whole(paths, tokenizer.fingerprint, "--data", shard_cache(corpus.data))
    else:
        found = open_validation(corpus, tokenizer.fingerprint)
        if found is None:
            raise UserError("the run has no validation data; name shards to score with --data DIR")
        sources = found
    if isinstance(config, BertConfig):
        return MaskedTokens.over(sources, config)
    return NextToken.over(sources, narrow(config, GptConfig, "perplexity"), tokenizer, stride)


def _score(model: Model, data: ValidationFeed, layout: Layout) -> Totals:
    if not layout.world.is_first:
        return score(model, data)
    micro_size = model.config.batch.micro_size
    with Progress("scoring", data.batches(layout.data_size, micro_size), "micro-batches") as progress:
        return score(model, data, progress.advance)


def _spec(
    opened: Checkpoint, config: TextConfig, task: Task, tokenizer: Tokenizer, layout: Layout
) -> dict[str, Any]:
    """Everything needed to get the same numbers again."""
    return {
        **spec_of(task.NAME, task.DEFINITIONS, opened, layout.world, LIBRARIES),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_length": config.batch.sequence_length,
        **task.spec(),
        **({"max_windows": config.eval.max_windows} if isinstance(config, CorpusConfig) else {}),
        "precision": config.precision,
        "layout": layout.describe(),
        "parallel": config.parallel.model_dump(),
        "micro_size": config.batch.micro_size,
        "seed": config.run.seed,
    }
