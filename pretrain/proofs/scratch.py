"""The scratch space of a proof: a temporary folder, and the user's config cut to the steps of the proof."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from pretrain.commands.check import check_data
from pretrain.config import derived
from pretrain.config.load import load_config, require_kind
from pretrain.config.resolved import config_to_yaml
from pretrain.config.sections import (
    BatchStageConfig,
    CorpusConfig,
    RunConfig,
    ScheduleConfig,
    StageConfig,
    TrackingConfig,
    TrainConfig,
)
from pretrain.config.stages import tokens_until
from pretrain.cpu.products.choice import available_here
from pretrain.cpu.products.settle import decide
from pretrain.distributed.launcher import read_rank_info
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder, write_atomically

S = TypeVar("S", StageConfig, BatchStageConfig)


@contextmanager
def scratch_folder(run_dir: str, out: str | None, proof: str) -> Iterator[Path]:
    """A new folder beside `run.dir`, or in `out`; removed at the end, or kept and named if the proof failed.

    Raises UserError if it cannot be made.
    """
    parent = Path(out) if out is not None else RunFolder(run_dir).path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f"{proof}-", dir=parent)).absolute()
    except OSError as error:
        raise UserError(
            f"cannot make a scratch folder in {parent}: {error.strerror}; use --out DIR"
        ) from None
    try:
        yield path
    except BaseException:
        print(f"kept for a closer look: {path}", file=sys.stderr)
        raise
    shutil.rmtree(path)


def load_for_proof(path: str, overrides: Sequence[str], processes: int | None) -> CorpusConfig:
    """The user's config, after checking its data.

    From here on, all runs of the proof use the same method for products on the CPU.

    Raises UserError if the config or its data are wrong, or a launcher has started this process as a rank.
    """
    launcher = read_rank_info(os.environ).launcher
    if launcher != "alone":
        raise UserError(f"a proof starts its own processes; call it once, not under {launcher}")
    loaded = load_config(path, overrides, processes)
    config = require_kind(loaded.config, CorpusConfig, "this proof")
    with tempfile.TemporaryDirectory() as anew:  # a proof starts at step 0, whatever is in run.dir
        run = config.run.model_copy(update={"dir": str(anew)})
        check_data(replace(loaded, config=config.model_copy(update={"run": run})))
    if not torch.cuda.is_available():
        settled = decide(available_here()).put_in_force()
        print(f"products on the CPU: {settled.choice.text}", flush=True)
    return config


def shortened(config: CorpusConfig, steps: int) -> ScheduleConfig:
    """The schedule for a run of `steps`.

    The decay is as in the whole run, and the warm-up is done half-way. Ramp-up stages are equally long, as
    many of the last ones as there are steps for.
    """
    schedule = config.schedule.model_copy(
        update={
            key: _sooner(given, steps)
            for key in ("sequence_length", "batch_size")
            if (given := getattr(config.schedule, key)) is not None
        }
    )
    if schedule.decay_tokens is not None:
        shorter = config.model_copy(update={"schedule": schedule})
        warmup = min(schedule.warmup_tokens or 0, tokens_until(shorter, steps // 2)) or None
        return schedule.model_copy(update={"warmup_tokens": warmup})
    decay = None if schedule.kind == "constant" else derived.decay_steps(config)
    if schedule.kind == "wsd":
        decay = min(derived.decay_steps(config), max(1, steps // 2))
    warmup = min(schedule.warmup_steps, steps // 2)
    return schedule.model_copy(update={"warmup_steps": warmup, "decay_steps": decay})


def _sooner(given: Sequence[S], steps: int) -> tuple[S, ...] | None:
    """Stages that end within a run of `steps`; None for one step, which has room for none."""
    fitting = given[max(0, len(given) - steps + 1) :]
    ends = [number * steps // (len(fitting) + 1) for number in range(1, len(fitting) + 1)]
    moved = zip(fitting, ends, strict=True)
    return tuple(stage.model_copy(update={"until": end}) for stage, end in moved) or None


def proof_config(config: CorpusConfig, run_dir: Path, steps: int) -> CorpusConfig:
    """The config as a run of its own of `steps` steps: another folder, no tracking and no profile."""
    return config.model_copy(
        update={
            "run": RunConfig(dir=str(run_dir), seed=config.run.seed, steps=steps),
            "schedule": shortened(config, steps),
            "tracking": TrackingConfig(enabled=False),
            "train": TrainConfig(),
        }
    )


def write_config(folder: Path, name: str, config: CorpusConfig) -> Path:
    """Write the config as a file that commands and ranks read."""
    path = folder / (re.sub(r"[^A-Za-z0-9+]+", "-", name) + ".yaml")
    write_atomically(path, config_to_yaml(config))
    return path


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
