"""Scores a checkpoint of a GPT on tasks of the harness, on any parallel dims."""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_tools.counts import counted
from evals.config import evaluation_config
from evals.harness.definition import Definition, find_definitions
from evals.harness.library import confined
from evals.harness.tasks import FEWSHOT_SEED, build_task, metrics_of, requests_fingerprint
from evals.request import LayoutOf
from evals.result import Result, spec_of
from pretrain.checkpoint import open_checkpoint
from pretrain.checkpoint.tokenizer import load_tokenizer
from pretrain.config.load import require_kind
from pretrain.config.sections import DecoderConfig, ParallelConfig
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import UserError
from pretrain.gpt.spec import GptSpec
from pretrain.kind import LAYOUT_KEYS
from pretrain.megatron.restore import RESOLVED_CONFIG, SavedModel, load_model

LIBRARIES = ("pretrain", "torch", "megatron-core", "lm_eval")
BOOTSTRAPS = 1000
"""Draws for the standard error of a metric that has no formula for it."""
_NOT_GENERATING = ("virtual_pipeline", "context", "sequence")


def evaluate_tasks(
    path: Path,
    world: DistContext,
    tasks: Sequence[str],
    folder: str | None,
    overrides: Sequence[str],
    layout_of: LayoutOf,
) -> Result:
    """Score a checkpoint, all ranks together.

    Args:
        tasks: task files, or names of tasks in `folder`.
        folder: as for `find_definitions`.
        overrides: `section.key=value` texts; `pretrain.kind.LAYOUT_KEYS` says which.
        layout_of: creates the process groups, or returns existing ones.

    Returns:
        The result, on every rank.

    Raises:
        UserError, IntegrityError: a task, an example, the parallel dims or the checkpoint is wrong.
        HealthError: a log-likelihood is not finite.
    """
    definitions = find_definitions(tasks, folder)
    opened = open_checkpoint(path)
    found = evaluation_config(path / RESOLVED_CONFIG, overrides, world.size, data=tasks, known=LAYOUT_KEYS)
    config = require_kind(found, DecoderConfig, "lm-evaluation-harness")
    with confined(show=world.is_first):
        built = {definition.name: build_task(definition) for definition in definitions}
        _refuse_layout(config, built)
        tokenizer = load_tokenizer(opened)
        dims = layout_of(world, config.parallel)
        from evals.harness.model import CheckpointLM

        saved = SavedModel(opened, config, tokenizer.vocab_size)
        model = load_model(saved, config, dims, GptSpec(config, dims))
        lm = CheckpointLM(model, tokenizer)
        answer = run_harness(lm, built, BOOTSTRAPS if world.is_first else 0)["results"]
    metrics = broadcast_from_rank0(
        world, lambda: [metrics_of(each, built[each.name], answer[each.name]) for each in definitions]
    )
    layout_name = dims.describe()
    meanings = {name: meaning for one in metrics for name, (_, meaning) in one.items()}
    spec = {
        **spec_of("harness", meanings, opened, world, LIBRARIES),
        **tokenizer.facts,
        "tasks": {each.name: _task_spec(each, built[each.name]) for each in definitions},
        "contexts_cut": lm.cut,
        "bootstraps": BOOTSTRAPS,
        "sequence_length": config.batch.sequence_length,
        "precision": config.precision,
        "layout": layout_name,
        "parallel": config.parallel.model_dump(),
        "micro_size": config.batch.micro_size,
        "seed": config.run.seed,
        "summary": f"lm-evaluation-harness {version('lm_eval')} on {', '.join(built)}; {lm.cut:,} contexts "
        f"cut to {counted(config.batch.sequence_length, 'token')}; {layout_name}, "
        f"{config.precision} on {world.device.type}",
    }
    values = {name: value for one in metrics for name, (value, _) in one.items()}
    return Result(str(path), opened.step, values, spec)


def run_harness(lm: Any, tasks: Mapping[str, Any], bootstraps: int) -> Any:
    """The harness's own evaluation of tasks.

    Args:
        lm: the model as an LM of the harness.
        tasks: name -> task of `build_task`, not evaluated before.
        bootstraps: draws for a standard error that has no formula; 0: no standard errors.
    """
    from lm_eval.evaluator import evaluate

    with contextlib.redirect_stdout(io.StringIO()):  # it prints messages about its bootstrap
        return evaluate(lm=lm, task_dict={"tasks": tasks}, bootstrap_iters=bootstraps, log_samples=False)


def _refuse_layout(config: DecoderConfig, tasks: Mapping[str, Any]) -> None:
    """Raise UserError for parallel dims that cannot generate: only tensor and pipeline parallelism can."""
    generating = [name for name, task in tasks.items() if task.OUTPUT_TYPE == "generate_until"]
    plain = ParallelConfig()
    for key in _NOT_GENERATING:
        value = getattr(config.parallel, key)
        if generating and value != getattr(plain, key):
            raise UserError(
                f"parallel.{key}={value}: task {generating[0]} generates text, on tensor and pipeline "
                "parallel ranks only; leave it out"
            )


def _task_spec(definition: Definition, task: Any) -> dict[str, Any]:
    """Everything that decides the metrics of one task."""
    return {
        "file": os.path.abspath(definition.file.path),
        "definition_fingerprint": definition.fingerprint,
        "definition": definition.shown,
        "data": [
            {"path": os.path.abspath(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for paths in definition.data.values()
            for path in paths
        ],
        "requests": len(task.instances),
        "requests_fingerprint": requests_fingerprint(task),
        "fewshot": task.config.num_fewshot,
        "fewshot_seed": FEWSHOT_SEED,
    }
