"""`pretrain verify-resume`: a run that is killed and resumed equals, bit by bit, one that was not.

The config is trained twice by the real command: once without a stop, and once with a `kill -9` of all ranks
at a random moment after the first checkpoint, and a resume. Every step's loss, gradient norm and learning
rate and every tensor of the last checkpoints, optimizer state included, are compared bit by bit.
"""

import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from data_tools.children import Child
from data_tools.counts import counted
from data_tools.progress import Progress
from pretrain.checkpoint import newest_good
from pretrain.checkpoint.layout import step_of
from pretrain.config.load import load_config, require_kind
from pretrain.config.sections import CheckpointConfig, CorpusConfig, TextEvalConfig
from pretrain.errors import IntegrityError, UserError
from pretrain.proofs.compare import RunComparison, compare_runs, last_step
from pretrain.proofs.layouts import own_layout
from pretrain.proofs.scratch import columns, load_for_proof, proof_config, scratch_folder, write_config
from pretrain.run.relay import Relay

ATTEMPTS = 6
"""How often a run that ends before it could be killed is started."""
WINDOWS = 4
"""Validation windows of each source: enough to see that validation disturbs nothing."""
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class _Kill:
    step: int
    """The last step in the journal when the ranks were killed."""
    resumes_from: int
    """The step of the newest good checkpoint at that time."""


def verify_resume_command(
    path: str, processes: int | None, steps: int, out: str | None, overrides: Sequence[str]
) -> None:
    """Prove that this config resumes exactly.

    Args:
        processes: ranks; None: as few as the config's layout needs.
        steps: steps before the checkpoint from which the killed run resumes; as many again follow it.
        out: where the scratch folder is made; None: beside `run.dir`.

    Raises:
        UserError: the config or its data are wrong, or a run failed.
        IntegrityError: the resumed run differs; names the first step or tensor.
    """
    asked = require_kind(load_config(path, overrides).config, CorpusConfig, "this proof")
    processes = processes or own_layout(asked).processes
    loaded = load_for_proof(path, overrides, processes)
    with scratch_folder(loaded.run.dir, out, "verify-resume") as scratch:
        straight, killed = scratch / "uninterrupted", scratch / "killed"
        _train(scratch, _config(loaded, straight, steps), processes, "without a stop")
        config = _config(loaded, killed, steps)
        kill = _train_and_kill(scratch, config, processes, steps)
        print(
            f"killed -9 after step {kill.step}; the newest good checkpoint is of step {kill.resumes_from}",
            flush=True,
        )
        _train(scratch, config, processes, "resumed")
        _judge(compare_runs(straight, killed), processes, steps, scratch)


def _judge(found: Sequence[RunComparison], processes: int, steps: int, scratch: Path) -> None:
    rows = [("compared bit by bit", "number", "result")]
    rows += [
        (one.what, str(one.compared), f"{one.differing} differ" if one.differing else "equal")
        for one in found
    ]
    print("\n" + columns(rows) + "\n")
    different = [one for one in found if one.differing]
    if different:
        firsts = "".join(f"\n  first: {one.first}" for one in different)
        raise IntegrityError(f"resume is not exact: {scratch} holds both runs{firsts}")
    print(
        f"resume is exact: {counted(2 * steps, 'step')} on {counted(processes, 'process')}, killed "
        "and resumed, are equal in "
        "every bit to the same steps without a stop"
    )


def _config(config: CorpusConfig, run_dir: Path, steps: int) -> CorpusConfig:
    settings = CheckpointConfig.model_validate({"every": steps, "async": config.checkpoint.async_})
    validates = config.data.validation is not None or config.data.validation_fraction is not None
    windows = min(config.eval.max_windows or WINDOWS, WINDOWS)
    evaluation = (
        TextEvalConfig(every=max(1, steps // 2), max_windows=windows) if validates else TextEvalConfig()
    )
    return proof_config(config, run_dir, 2 * steps).model_copy(
        update={"checkpoint": settings, "eval": evaluation}
    )


def _train(scratch: Path, config: CorpusConfig, processes: int, title: str) -> None:
    """Train to the end. Raises UserError, quoting its last output, if the command failed."""
    began = time.monotonic()
    run = Path(config.run.dir)
    first = _first_step(run)
    with _training(scratch, config, processes) as (relay, process, log):
        _follow(process, run, f"training, {title}", first, config.run.steps, lambda: False)
    if code := relay.code(process):
        _fail(relay, title, code, log)
    print(
        f"{title}: {counted(config.run.steps - first, 'step')} in {time.monotonic() - began:.0f} s",
        flush=True,
    )


def _train_and_kill(scratch: Path, config: CorpusConfig, processes: int, steps: int) -> _Kill:
    """Train, and end all ranks with SIGKILL at a random moment after the checkpoint of `steps`.

    Raises UserError if the run failed, or was over each time before it could be killed.
    """
    run = Path(config.run.dir)
    # A run of short steps ends soon after the checkpoint, so each attempt kills earlier.
    for hurry in range(1, ATTEMPTS + 1):
        shutil.rmtree(run, ignore_errors=True)
        target = random.randint(steps, steps + steps // 2 // hurry)
        saved = run / "checkpoints" / f"step-{steps:08d}"

        def due(target: int = target, saved: Path = saved) -> bool:
            return last_step(run) >= target and saved.exists()

        with _training(scratch, config, processes) as (relay, process, log):
            _follow(process, run, "training, to be killed", 0, target, due)
            time.sleep(random.random() * 0.05 / hurry)
        if relay.number or process.returncode not in (0, -signal.SIGKILL):
            _fail(relay, "the run to be killed", relay.code(process), log)
        found, _ = newest_good(run)
        at = step_of(found.name) if found is not None else None
        if process.returncode == -signal.SIGKILL and at is not None and at < config.run.steps:
            return _Kill(last_step(run), at)
    raise UserError(
        f"the run of {counted(config.run.steps, 'step')} was over {ATTEMPTS} times before it could "
        "be killed after the "
        f"checkpoint of step {steps}; give more steps with --steps"
    )


@contextmanager
def _training(scratch: Path, config: CorpusConfig, processes: int) -> Iterator[tuple[Relay, Child, Path]]:
    """`pretrain train` and its log, killed at the end of the block, and its ranks with it."""
    name = Path(config.run.dir).name
    path, log = write_config(scratch, name, config), scratch / f"{name}.log"
    command = [sys.executable, "-m", "pretrain", "train", "--processes", str(processes), "--", str(path)]
    with open(log, "ab") as output, Relay() as relay:
        process = relay.start(command, stdout=output, stderr=output)
        try:
            yield relay, process, log
        finally:
            process.kill()
            process.wait()


def _follow(process: Child, run: Path, title: str, first: int, last: int, due: Callable[[], bool]) -> None:
    """Show the steps as they come, until the process ends or `due` returns True."""
    shown = first
    with Progress(title, total=last - first, unit="step") as progress:
        while process.poll() is None and not due():
            step = min(last, last_step(run))
            progress.advance(max(0, step - shown))
            shown = max(shown, step)
            time.sleep(POLL_SECONDS)


def _first_step(run: Path) -> int:
    """The step that a run resumes from."""
    found, _ = newest_good(run)
    return (step_of(found.name) or 0) if found is not None else 0


def _fail(relay: Relay, title: str, code: int, log: Path) -> NoReturn:
    said = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
    error = UserError(f"{relay.why}{title}: `pretrain train` ended with exit code {code}:\n  {said}")
    if relay.number:
        error.exit_code = code
    raise error
