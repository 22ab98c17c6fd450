"""`pretrain eval`: scores checkpoints, prints the metrics, and logs them to the run's MLflow run."""

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from evals.batch import Which, evaluate_several
from evals.evaluate import evaluate
from evals.images.options import NO_IMAGE_OPTIONS, ImageEvalOptions
from evals.request import EvalRequest, say
from evals.result import Result, require_writable, write_text
from pretrain.distributed.launcher import ranks_to_start, read_rank_info
from pretrain.distributed.spawn import spawn
from pretrain.distributed.world import DistContext, init_distributed
from pretrain.errors import UserError
from pretrain.redact import write_new
from pretrain.run.folder import RunFolder
from pretrain.tracking.evaluations import log_evaluation


@dataclass(frozen=True)
class Command:
    """The arguments of `pretrain eval`."""

    checkpoint: str
    """Run directory (its newest good checkpoint) or one step folder in it."""
    json_path: str | None = None
    """File for the result."""
    stride: int | None = None
    """Tokens by which a window moves on; None: a whole sequence, as in the trainer's validation."""
    data: tuple[str, ...] = ()
    """Shard directories to score instead of the run's validation data."""
    images: ImageEvalOptions = NO_IMAGE_OPTIONS
    """Options about images."""
    suite: str | None = None
    """File that lists what to score."""
    which: Which = "newest"
    """Checkpoints of the run."""
    overrides: tuple[str, ...] = ()
    """`section.key=value` texts; the kind's `Evaluation.keys` says which."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness: task files, or names of tasks in `task_folder`."""
    task_folder: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it scores one task on one checkpoint."""
        return self.suite is None and self.which == "newest" and not self.tasks

    def arguments(self) -> list[str]:
        """The command line again, to start ranks with."""
        options = [] if self.stride is None else ["--stride", str(self.stride)]
        options += [] if self.json_path is None else ["--json", self.json_path]
        options += [] if self.suite is None else ["--suite", self.suite]
        options += [] if self.which == "newest" else [f"--{self.which}"]
        options += [part for path in self.data for part in ("--data", path)] + self.images.arguments()
        options += [part for task in self.tasks for part in ("--tasks", task)]
        options += [] if self.task_folder is None else ["--task-folder", self.task_folder]
        return [*options, "--", self.checkpoint, *self.overrides]

    def check(self) -> None:
        """Raise UserError for options that have no effect in combination."""
        if self.json_path is not None:
            require_writable(self.json_path)
        if self.task_folder is not None and not self.tasks:
            raise UserError(f"--task-folder {self.task_folder} has no effect without --tasks")
        if self.tasks and self.suite is not None:
            raise UserError(f"--tasks {self.tasks[0]} has no effect with --suite: a suite lists tasks itself")
        if self.is_plain:
            return
        why = "with --suite, --all and --watch: a suite's tasks say it (configs/eval)"
        if self.tasks:
            why = "with --tasks, whose files name their data"
        self.images.refuse(self.images.given, why)
        for option, value in (("--stride", self.stride), ("--data", " ".join(self.data) or None)):
            if value is not None:
                raise UserError(f"{option} {value} has no effect {why}; remove it")


def evaluate_command(asked: Command, processes: int | None = None) -> None:
    """Score as one of many ranks, or start `processes` ranks that do so.

    Raises:
        UserError, IntegrityError: the arguments, the checkpoint or the data are wrong.
        HealthError: the loss is not finite.
    """
    asked.check()
    rank_info = read_rank_info(os.environ)
    ranks = ranks_to_start(rank_info, processes)
    if ranks > 1:
        sys.exit(spawn([sys.executable, "-m", "pretrain", "eval", *asked.arguments()], ranks))
    with init_distributed(rank_info) as world:
        if asked.is_plain:
            _one(asked, world)
        else:
            _several(asked, world)


def _one(asked: Command, world: DistContext) -> None:
    request = EvalRequest(asked.stride, asked.data, asked.images, asked.overrides)
    result = evaluate(asked.checkpoint, world, request)
    if world.is_first:
        _show(asked, result)
        _record(result)


def _show(asked: Command, result: Result) -> None:
    if asked.json_path is not None:
        write_text(asked.json_path, result.to_json())
    result.show(Console())


def _several(asked: Command, world: DistContext) -> None:
    alone = asked.which == "newest" and asked.suite is None
    scored = evaluate_several(replace(asked, json_path=None) if alone else asked, world)
    if alone and world.is_first:
        _show(asked, scored[0].result)


def _record(result: Result) -> None:
    """Send the metrics to MLflow, with the whole result as an artifact, if the checkpoint lies in a run."""
    run = RunFolder(Path(result.checkpoint).parent.parent)
    if not run.is_run:
        say(f"{result.checkpoint} lies in no run folder, so nothing goes to MLflow")
        return
    # The trainer logs validation_loss on its own windows; that curve must not be mixed with this one.
    metrics = {name: value for name, value in result.metrics.items() if name != "validation_loss"}
    what = json.dumps([result.spec["data"], result.spec.get("stride")])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{result.spec['task']}-{hashlib.sha256(what.encode()).hexdigest()[:8]}.json"
        write_new(file, result.to_json())
        log_evaluation(run.path, result.step, metrics, [file])
