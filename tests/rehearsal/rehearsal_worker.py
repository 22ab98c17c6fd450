"""`python rehearsal_worker.py FOLDER [CASE ...]`: trainers on a pretended GPU, many in one process.

Prints a JSON object for each case: its name, the error if it failed, and what a GPU would wait for in its
second step.
"""

import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # nothing is compiled here

from rehearsal_cases import CASES, FAMILIES, Case, Family
from rehearsal_mutations import CASE, MUTATIONS

from pretrain.checkpoint import Checkpoint, open_checkpoint
from pretrain.config.load import load_config
from pretrain.kinds import kind_of
from pretrain.rehearsal.events import Events, What
from pretrain.rehearsal.gpu import pretended_gpu, rehearsed_world
from pretrain.training.step_sync import StepSync


def step(folder: Path, case: Case) -> dict[str, Any]:
    """Two steps of one rank of a layout, and a checkpoint loaded into it."""
    family = FAMILIES[case.family]
    texts = [*family.overrides(folder), *case.overrides, f"run.dir={folder}/unused"]
    config = load_config(str(family.config(folder)), texts, case.size).config
    with (
        rehearsed_world(case.rank, case.size) as (world, events),
        patch.object(Checkpoint, "require_all_read"),  # the other ranks ask for the rest
    ):
        trainer = kind_of(config).trainer(config, world, StepSync(world), None)
        try:
            trainer.step(0)
            events.clear()
            trainer.step(1)
            found = counts(events)
            if case.loads:
                trainer.load(open_checkpoint(folder / case.family / "run/checkpoints/step-00000002"))
            else:
                for piece in trainer.pieces():
                    piece.tensor.cpu()
        finally:
            getattr(trainer, "close", lambda: None)()
    return found


def counts(events: Events) -> dict[str, Any]:
    """All but what DeepSpeed makes a GPU wait for by itself."""
    return {
        what.name: {str(event): count for event, count in events.of(what).items() if not event.is_deepspeeds}
        for what in What
    }


def whole(folder: Path, family: Family) -> dict[str, Any]:
    """A run from the command line: it trains, validates, saves, resumes, is scored and generates."""
    from pretrain.cli import app

    run = folder / family.name / "run"
    train = ["train", str(family.config(folder)), *family.overrides(folder), f"run.dir={run}"]
    train += ["tracking.enabled=false", "checkpoint.every=1"]
    for command in ([*train, "run.steps=1"], [*train, "run.steps=2"], *family.commands(run)):
        said = io.StringIO()
        with pretended_gpu(), redirect_stdout(said), redirect_stderr(said):
            try:
                app(command, standalone_mode=False)
            except RuntimeError as error:
                # An evaluation counts its labels; this GPU counts to one.
                if command[0] != "eval" or "labels of" not in str(error):
                    raise
            except SystemExit as error:
                if error.code:
                    raise RuntimeError(f"{command[0]}: {said.getvalue()[-3000:]}") from None
    return {}


def show(name: str, act: Callable[[], dict[str, Any]]) -> None:
    began = time.process_time()
    try:
        found = act()
    except BaseException:
        found = {"error": traceback.format_exc()[-6000:]}
    print(json.dumps({"name": name, "seconds": time.process_time() - began, **found}), flush=True)


def main_() -> None:
    folder, *names = Path(sys.argv[1]), *sys.argv[2:]
    for family in FAMILIES.values():
        if not names or family.name in names:
            show(family.name, lambda family=family: whole(folder, family))
    for case in CASES:
        if not names or case.name in names:
            show(case.name, lambda case=case: step(folder, case))
    (mutated,) = (case for case in CASES if case.name == CASE)
    for name, mutation in MUTATIONS.items():
        if not names or name in names:
            with mutation():
                show(name, lambda: step(folder, mutated))


if __name__ == "__main__":
    main_()
