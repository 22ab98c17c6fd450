"""A disk that takes no more, under every command that writes: one message with the file's name, code 2.

The process may write no file beyond some hundred bytes (RLIMIT_FSIZE), which is EFBIG; a tmpfs that is full
gives ENOSPC.
"""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from bad_input_commands import Commands, Ended
from image_shards import draw

from data_tools.errors import machine_error, named
from pretrain.distributed.collectives import broadcast_from_rank0
from pretrain.distributed.world import DistContext
from pretrain.errors import OutputError
from pretrain.health.phase_timer import PhaseTimer
from pretrain.health.stop import StopReason
from pretrain.health.watchdog import Watchdog, WatchedJob
from pretrain.run.logs import error_console, setup_logging
from pretrain.run.signals import Signals
from pretrain.run.status import _overwrite

LIMIT = 600
TOO_LARGE = "File too large"


def limited(commands: Commands, *argv: object) -> Ended:
    pid = commands.start(*argv)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    return commands.wait(pid)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = (json.dumps({"text": f"the quick brown fox {number} " * 40}) + "\n" for number in range(60))
    path.write_text("".join(rows))
    return path


Make = Callable[[Path, Path, Path], tuple[list[object], str]]
"""Input text, good shards and an output folder -> the command, and what its message names."""


def tokenizer(text: Path, _: Path, out: Path) -> tuple[list[object], str]:
    options = ["--model-type", "bpe", "--vocab-size", 300, "--input", text]
    return ["data", "tokenizer", *options, "--output", out], f"--output {out}: cannot be written: {TOO_LARGE}"


def shards(text: Path, good: Path, out: Path, *more: object) -> tuple[list[object], str]:
    argv = ["data", "build", "--input", text, "--tokenizer", good / "tokenizer", "--output", out, *more]
    return argv, f"{out}/000000-000.tar: {TOO_LARGE}"


def shards_by_workers(text: Path, good: Path, out: Path) -> tuple[list[object], str]:
    return shards(text, good, out, "--workers", 2)


def images(text: Path, _: Path, out: Path) -> tuple[list[object], str]:
    pictures = draw(text.with_name(f"{out.parent.name}-pictures"), 20, size=32)
    argv = ["data", "images", "--input", pictures, "--size", 32, "--output", out, "--workers", 1]
    return argv, f"{out}/000000-000.tar: {TOO_LARGE}"


def clean(text: Path, _: Path, out: Path) -> tuple[list[object], str]:
    return ["data", "clean", "--input", text, "--output", out, "--workers", 1], f"{out}/.build/"


def embedded(_: Path, __: Path, out: Path) -> tuple[list[object], str]:
    argv: list[object] = ["data", "embedded", "--corpus", "stdlib", "--output", out]
    return argv, f"--output {out}: cannot be written: {TOO_LARGE}"


@pytest.mark.slow
@pytest.mark.parametrize("make", [tokenizer, shards, shards_by_workers, images, clean, embedded])
def test_data_commands(commands: Commands, good_shards: Path, text: Path, tmp_path: Path, make: Make) -> None:
    argv, told = make(text, good_shards, tmp_path / "out")
    limited(commands, *argv).refused(2, told, TOO_LARGE)
    assert commands.run(*argv).code == 0, "the same command goes on"


@pytest.mark.slow
def test_commands_on_a_run(commands: Commands, trained: Path, good_shards: Path, tmp_path: Path) -> None:
    run, out = trained / "run", tmp_path / "out"
    limited(commands, "export", run, out).refused(2, f"/model.safetensors: {TOO_LARGE}")
    assert os.listdir(tmp_path) == []
    assert commands.run("export", run, out).code == 0
    weights = f"/weights-rank-0000.safetensors: {TOO_LARGE}"
    limited(commands, "import", out, tmp_path / "new").refused(2, weights)
    assert os.listdir(tmp_path) == ["out"]
    scores = tmp_path / "scores.json"
    scored = limited(commands, "eval", run, "--data", good_shards, "--json", scores)
    scored.refused(2, f"--json {scores}: cannot be written: {TOO_LARGE}")
    picture = tmp_path / "p.png"
    drawn = limited(commands, "compare", run, "--plot", picture)
    drawn.refused(2, f"--plot {picture}: cannot be written: {TOO_LARGE}")
    proof = ("verify-resume", trained / "config.yaml", "--steps", 1, "--out", tmp_path / "proof")
    limited(commands, *proof).refused(2, f"{tmp_path}/proof/", f".yaml: {TOO_LARGE}")


def test_standard_output_has_a_name(trained: Path) -> None:
    command = [sys.executable, "-m", "pretrain", "status", str(trained / "run")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "pretrain: error: <stdout>: No space left on device\n")


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EACCES", "ESTALE", "EMFILE"])
def test_errors_of_the_machine(code: str) -> None:
    number = getattr(errno, code)
    with pytest.raises(OSError) as caught, named("here/file"):
        raise OSError(number, os.strerror(number))
    assert machine_error(caught.value) == f"here/file: {os.strerror(number)}"
    known = OSError(number, os.strerror(number), "source", None, "target")
    assert machine_error(known) == f"target: {os.strerror(number)}"
    assert machine_error(ConnectionResetError(errno.ECONNRESET, "reset")) is None


def test_all_ranks_are_told_of_an_error_of_the_first(tmp_path: Path) -> None:
    def write() -> None:
        with named(tmp_path), open("/dev/full", "wb", buffering=0) as file:
            file.write(b"a")

    world = DistContext(0, 1, 0, torch.device("cpu"), None)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=f"{tmp_path}: No space left on device"):
        broadcast_from_rank0(world, write)


def test_a_log_on_a_full_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are lost and counted; nothing else is written anywhere, and closing raises nothing."""
    import logging

    log, path, write = logging.getLogger("pretrain.test"), tmp_path / "rank.log", os.write
    full = [False]

    def written(descriptor: int, data: bytes) -> int:
        if full[0] and os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", written)
    with setup_logging(path, 0):
        log.info("one")
        full[0] = True
        log.info("two")
        log.warning("three")
        full[0] = False
        log.info("four")
        full[0] = True
        log.info("five")
    lines = [line.rpartition(": ")[2] for line in path.read_text().splitlines() if line]
    assert lines == ["one", "they could not be written)", "four"]
    assert "(2 lines are missing here" in path.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_log_that_never_takes_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """No "--- Logging error ---", and no error when it is closed."""
    import logging

    with setup_logging(Path("/dev/full"), 0):
        for _ in range(3):
            logging.getLogger("pretrain.test").warning("a line")
    assert capfd.readouterr() == ("", "")


def test_standard_error_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        error_console().print("a line")
        monkeypatch.setattr(sys, "stderr", None)
        error_console().print("a line")
        monkeypatch.undo()
        with suppress(OSError):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_a_verdict_on_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """It cannot be told to other ranks; it still ends this one."""
    missing = tmp_path / "heartbeat"
    job = WatchedJob("a", missing, tmp_path / "log", 0, 2, None, lambda verdict: None)
    watch = Watchdog(job, PhaseTimer(), Signals())
    assert watch._post(4, "a hang", at_once=True) == StopReason(4, "a hang", 0, 0, True)
    missing.mkdir()
    watch._post(4, "a hang", at_once=True)
    assert watch._post(2, "later", at_once=True).message == "a hang"


def test_a_status_is_written_into_the_room_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert not _overwrite(path, "{}")
    path.write_text(json.dumps({"state": "running", "reason": None}, indent=1))
    size = path.stat().st_size
    assert _overwrite(path, '{"state": "failed"}')
    assert (json.loads(path.read_text()), path.stat().st_size) == ({"state": "failed"}, size)
    assert not _overwrite(path, json.dumps({"reason": "x" * 100_000}))
    assert json.loads(path.read_text()) == {"state": "failed"}
