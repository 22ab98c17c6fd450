"""`pretrain eval --suite`, `--all` and `--watch`: several tasks, or several checkpoints, each scored once."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.evaluate import evaluate
from evals.request import EvalRequest, LayoutOf, say
from evals.result import Result, write_text
from evals.stored_results import find, keep, key_of
from evals.suite import Suite, SuiteEntry, load_suite, named_tasks, only_task
from pretrain.checkpoint import resolve, suspect_since
from pretrain.checkpoint.layout import step_of, steps_in
from pretrain.config.load import read_config
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import IntegrityError, UserError
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.megatron.restore import RESOLVED_CONFIG
from pretrain.run.folder import RunFolder
from pretrain.run.status import is_over
from pretrain.tracking.evaluations import send_evaluations

if TYPE_CHECKING:
    from evals.command import Command

ORDER = ("checkpoint", "which", "suite", "overrides", "json_path", "tasks", "task_folder")
"""The options that `--json` repeats."""
Which = Literal["newest", "all", "watch"]
LOOK_SECONDS = 5.0
"""Between looks for a new checkpoint."""
SHOWN = 3
"""Metrics of a result that are shown on its line."""


@dataclass(frozen=True)
class ScoredTask:
    """One task on one checkpoint."""

    task: str
    name: str | None
    result: Result


def evaluate_several(order: "Command", world: DistContext) -> list[ScoredTask]:
    """Score, all ranks together; results that the run already has are not computed again.

    Returns:
        The results, in order, on every rank.

    Raises:
        UserError: something is wrong with the suite, or it does not fit the run.
        IntegrityError: checkpoints are damaged; the others are scored first.
        HealthError: a loss is not finite.
    """
    suite = None if order.suite is None else load_suite(order.suite)
    if order.tasks:
        suite = named_tasks(order.tasks, order.task_folder)
    layout_of: LayoutOf = lru_cache(maxsize=1)(
        build_parallel_dims
    )  # process groups are created once for all checkpoints
    scored: list[ScoredTask] = []
    damaged: list[str] = []
    unsent: set[RunFolder] = set()
    try:
        for path in _checkpoints(order, world, damaged):
            run = RunFolder(path.parent.parent)
            for entry in _fitting(suite, path).entries:
                scored.append(_score(order, entry, path, run, world, layout_of))
                unsent.add(run)
            if order.json_path is not None and world.is_first:
                write_text(order.json_path, _document(order, scored))
            if order.which == "watch":
                _send(unsent, world)
    finally:
        _send(unsent, world)
    if damaged:
        raise IntegrityError("damaged, and not scored:" + "".join(f"\n  {line}" for line in damaged))
    return scored


def _send(unsent: set[RunFolder], world: DistContext) -> None:
    """Bring MLflow up to date with the runs that have new results."""
    while unsent:
        run = unsent.pop()
        if world.is_first and run.is_run:
            send_evaluations(run.path)


def _fitting(suite: Suite | None, path: Path) -> Suite:
    kind = read_config(str(path / RESOLVED_CONFIG), saved=True).config.model.kind
    if suite is None:
        return only_task(kind)
    if wrong := suite.misfit(kind):
        raise UserError(wrong)
    return suite


def _score(
    order: "Command",
    entry: SuiteEntry,
    path: Path,
    run: RunFolder,
    world: DistContext,
    layout_of: LayoutOf,
) -> ScoredTask:
    """One task on one checkpoint: the result stored in the run, or a new one."""
    step = step_of(path.name)
    if step is None:
        raise UserError(f"{path}: is no step folder of a run")
    key = broadcast_from_rank0(world, partial(key_of, entry, path, order.overrides))
    kept = broadcast_from_rank0(world, partial(_kept, run, entry, step, key))
    result = Result.from_json(kept) if kept else _evaluate(order, entry, path, world, layout_of)
    if world.is_first:
        print(_line(entry, result, again=kept is not None), flush=True)
        if run.is_run:
            keep(run, entry, result, key)
        else:
            say(f"{path} lies in no run folder, so the result is not kept and nothing goes to MLflow")
    return ScoredTask(entry.task, entry.name, result)


def _evaluate(
    order: "Command", entry: SuiteEntry, path: Path, world: DistContext, layout_of: LayoutOf
) -> Result:
    if entry.task == "harness":
        from evals.harness.run import evaluate_tasks

        return evaluate_tasks(path, world, entry.tasks, entry.task_folder, order.overrides, layout_of)
    overrides = (*order.overrides, *entry.overrides)
    return evaluate(
        str(path), world, EvalRequest(entry.stride, entry.data, entry.images, overrides, layout_of)
    )


def _kept(run: RunFolder, entry: SuiteEntry, step: int, key: str) -> str | None:
    result = find(run, entry, step, key) if run.is_run else None
    return None if result is None else result.to_json()


def _line(entry: SuiteEntry, result: Result, *, again: bool) -> str:
    shown = list(result.metrics.items())[:SHOWN]
    numbers = "  ".join(f"{name} {value:.6g}" for name, value in shown)
    label = entry.name or entry.task
    return f"step {result.step:,}  {label}: {numbers}{'  (scored before)' if again else ''}"


def _document(order: "Command", scored: list[ScoredTask]) -> str:
    """What `--json` writes: every result in the form of `pretrain eval --json`, with its task."""
    results = [{"task": each.task, "name": each.name, **json.loads(each.result.to_json())} for each in scored]
    asked = {name: getattr(order, name) for name in ORDER}
    return json.dumps({"order": asked, "results": results}, indent=1, ensure_ascii=False) + "\n"


def _checkpoints(order: "Command", world: DistContext, damaged: list[str]) -> Iterator[Path]:
    """Verified step folders, oldest first; the faults of others are appended to `damaged`."""
    if order.which == "newest":
        yield Path(broadcast_from_rank0(world, lambda: str(resolve(order.checkpoint, say))))
        return
    run = RunFolder(order.checkpoint)
    if step_of(run.path.name) is not None:
        raise UserError(f"{order.checkpoint}: --{order.which} is for a run, not for one checkpoint")
    seen: set[str] = set()
    waited = False
    while True:
        # asked before the listing, so that no checkpoint is missed
        over = broadcast_from_rank0(world, lambda: is_over(run))
        names = broadcast_from_rank0(world, lambda: _new(run, order, seen))
        for name in names:
            seen.add(name)
            problem = broadcast_from_rank0(world, partial(_problem, run.checkpoints / name))
            if problem == "gone":
                continue
            since = broadcast_from_rank0(world, partial(suspect_since, run.checkpoints / name))
            if since is not None:
                if world.is_first:
                    say(f"passed over {name}: it was saved while updates were skipped, from step {since} on")
                continue
            if problem:
                damaged.append(problem)
                continue
            yield run.checkpoints / name
        if order.which == "all" or (over and not names):
            return
        if not names:
            if not waited and world.is_first:
                say(f"waiting for checkpoints of {run.path}, which is still to end")
            waited = True
            time.sleep(LOOK_SECONDS)


def _new(run: RunFolder, order: "Command", seen: set[str]) -> list[str]:
    """Names of complete checkpoints that have not been seen yet, oldest first."""
    if not run.path.is_dir() or not run.is_run:
        resolve(order.checkpoint, say)  # raises an error that says what is wrong with it
    found = [path.name for path in reversed(steps_in(run.checkpoints).values()) if path.name not in seen]
    if not found and not seen and order.which == "all":
        raise UserError(f"{run.path}: the run has no checkpoint yet; --watch waits for them")
    return found


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is."""
    try:
        resolve(path)
    except IntegrityError as error:
        return str(error) if path.exists() else "gone"
    except UserError:
        return "gone"  # the run has deleted it since: it keeps only the newest ones
    return None
