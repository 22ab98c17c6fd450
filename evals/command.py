"""`pretrain eval`: score a checkpoint on any layout, print the numbers, put them into the run's MLflow run.

The weights, the windows and the forward pass are those of the trainer's validation, so with the default
stride exp(validation loss) of the trainer at that step is the token perplexity here.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from data_tools.progress import Progress
from data_tools.tokenizer import Tokenizer
from evals.images.accuracy import evaluate_classifier
from evals.images.options import NO_IMAGE_OPTIONS, ImageOptions
from evals.masked import MaskedTokens
from evals.next_token import NextToken
from evals.result import Result, require_writable, write_result
from evals.setting import evaluation_config
from evals.task import Task
from pretrain.agree import first_decides
from pretrain.checkpoint import Checkpoint, open_checkpoint, resolve
from pretrain.config.load import read_config
from pretrain.config.narrow import narrow
from pretrain.config.sections import BertConfig, CnnConfig, CorpusConfig, GanConfig, GptConfig
from pretrain.data.feed import ValidationFeed
from pretrain.data.sources import open_validation, open_whole
from pretrain.errors import UserError
from pretrain.families.totals import Totals
from pretrain.folder import RunFolder
from pretrain.launch import World, find_place, join_world
from pretrain.layout import Layout, build_layout
from pretrain.model import Model
from pretrain.restore import RESOLVED_CONFIG, TOKENIZER_FOLDER, Saved, load_model
from pretrain.scoring import score
from pretrain.spawn import spawn
from pretrain.tracking.evaluations import log_evaluation


def evaluate_command(
    checkpoint: str,
    *,
    processes: int | None = None,
    json_path: str | None = None,
    stride: int | None = None,
    data: Sequence[str] = (),
    images: ImageOptions = NO_IMAGE_OPTIONS,
    overrides: Sequence[str] = (),
) -> None:
    """Score a checkpoint as one of many ranks, or start `processes` ranks that do.

    Args:
        checkpoint: run directory (its newest good checkpoint) or one step folder in it.
        processes: ranks to start on this machine, each a process.
        json_path: file for the result.
        stride: tokens that a window moves on; None: a whole sequence, as in the trainer's validation.
        data: shard directories to score in place of the run's validation data.
        images: options about images.
        overrides: `section.key=value` texts; `evals.setting.OVERRIDES` says which.

    Raises:
        UserError, IntegrityError: the arguments, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    if json_path is not None:
        require_writable(json_path)
    place = find_place(os.environ)
    if place.launcher != "alone" and processes not in (None, place.size):
        raise UserError(f"--processes {processes}: {place.launcher} has started {place.size} ranks already")
    if place.launcher == "alone" and (processes or 1) > 1:
        options = [] if stride is None else ["--stride", str(stride)]
        options += [] if json_path is None else ["--json", json_path]
        options += [part for path in data for part in ("--data", path)] + images.arguments()
        command = [sys.executable, "-m", "pretrain", "eval", *options, "--", checkpoint, *overrides]
        sys.exit(spawn(command, processes or 1))
    with join_world(place) as world:
        result = evaluate(checkpoint, world, stride=stride, data=data, images=images, overrides=overrides)
        if world.is_first:
            if json_path is not None:
                write_result(json_path, result)
            result.show(Console())
            _record(result)


def evaluate(
    checkpoint: str,
    world: World,
    *,
    stride: int | None = None,
    data: Sequence[str] = (),
    images: ImageOptions = NO_IMAGE_OPTIONS,
    overrides: Sequence[str] = (),
) -> Result:
    """Score a checkpoint, all ranks together; the arguments are those of `evaluate_command`.

    Returns:
        The result, on every rank.
    """
    path = Path(first_decides(world, lambda: str(resolve(checkpoint, _say))))
    opened = open_checkpoint(path)
    kind = read_config(str(path / RESOLVED_CONFIG)).config
    if isinstance(kind, CnnConfig):
        return evaluate_classifier(path, world, stride=stride, data=data, images=images, overrides=overrides)
    if isinstance(kind, GanConfig):
        from evals.images.gan import evaluate_gan

        return evaluate_gan(
            path, world, stride=stride, data=data, images=images, overrides=overrides, say=_say
        )
    images.refuse_all(f"on a {kind.model.kind}")
    tokenizer = Tokenizer.load(path / TOKENIZER_FOLDER)
    config = evaluation_config(path / RESOLVED_CONFIG, overrides, world.size, other_data=bool(data))
    task = _open_task(config, data, tokenizer, stride)
    layout = build_layout(world, config.parallel)
    model = load_model(Saved(opened, config, tokenizer.vocab_size), config, layout)
    metrics = task.metrics(_score(model, task.data, layout), world)
    return Result(str(path), opened.step, metrics, _spec(opened, config, task, tokenizer, layout))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _open_task(config: CorpusConfig, paths: Sequence[str], tokenizer: Tokenizer, stride: int | None) -> Task:
    """What the model is for, on `--data`, or else on the run's validation data."""
    if paths:
        sources = open_whole(paths, tokenizer.fingerprint, "--data")
    else:
        found = open_validation(config, tokenizer.fingerprint)
        if found is None:
            raise UserError("the run has no validation data; name shards to score with --data DIR")
        sources = found
    if isinstance(config, BertConfig):
        if stride is not None:
            raise UserError(f"--stride {stride} has no effect on a BERT, whose samples have no order")
        return MaskedTokens.over(sources, config)
    return NextToken.over(sources, narrow(config, GptConfig, "perplexity"), tokenizer, stride)


def _score(model: Model, data: ValidationFeed, layout: Layout) -> Totals:
    """As `score`, with a progress bar on rank 0."""
    if not layout.world.is_first:
        return score(model, data)
    micro_size = model.config.batch.micro_size
    with Progress("scoring", data.batches(layout.data_size, micro_size), "micro-batches") as progress:
        return score(model, data, progress.advance)


def _record(result: Result) -> None:
    """Hand the numbers to MLflow, with the whole result as an artifact, if the checkpoint lies in a run."""
    run = RunFolder(Path(result.checkpoint).parent.parent)
    if not run.is_run:
        _say(f"{result.checkpoint} lies in no run folder, so nothing goes to MLflow")
        return
    # The trainer has logged validation_loss, on its own windows; its curve stays its own.
    metrics = {name: value for name, value in result.metrics.items() if name != "validation_loss"}
    what = json.dumps([result.spec["data"], result.spec.get("stride")])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{result.spec['task']}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.json"
        file.write_text(result.to_json())
        log_evaluation(run.path, result.step, metrics, [file])


def _spec(
    opened: Checkpoint, config: CorpusConfig, task: Task, tokenizer: Tokenizer, layout: Layout
) -> dict[str, Any]:
    """Everything needed to get the same numbers again."""
    return {
        "task": task.NAME,
        "definitions": dict(task.DEFINITIONS),
        "checkpoint_fingerprint": opened.fingerprint,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "sequence_length": config.batch.sequence_length,
        **task.spec(),
        "max_windows": config.eval.max_windows,
        "precision": config.precision,
        "layout": layout.describe(),
        "parallel": config.parallel.model_dump(),
        "processes": layout.world.size,
        "micro_size": config.batch.micro_size,
        "device": layout.device.type,
        "seed": config.run.seed,
        "versions": {name: version(name) for name in ("pretrain", "torch", "megatron-core")},
    }
