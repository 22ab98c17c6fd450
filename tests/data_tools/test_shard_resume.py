"""A build killed at any moment is continued to the same bytes; nothing foreign is touched."""

import fcntl
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from shard_files import digests, documents

from data_tools import partition
from data_tools.builder import BuildOptions, build
from data_tools.clean.cleaner import clean
from data_tools.clean.options import CleanOptions
from data_tools.errors import UserError
from data_tools.images.builder import ImageBuildOptions, build_images

KILLS = 8
RUN = """
import sys
from data_tools import partition
from data_tools.builder import BuildOptions, build
if __name__ == "__main__":
    partition.SMALLEST_TARGET = partition.LARGEST_TARGET = 40_000
    build(BuildOptions((sys.argv[1],), sys.argv[2], sys.argv[3], workers=int(sys.argv[4]), block_tokens=4096))
"""


def png() -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def children(pid: int) -> set[int]:
    """The processes whose parent is `pid`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.add(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_builds_go_on(tmp_path: Path, texts: list[str], tokenizer_path: str, workers: int) -> None:
    source = tmp_path / "input.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 80))
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(source), tokenizer_path]
    subprocess.run([*command, str(tmp_path / "whole"), "1"], check=True)
    generator, output, killed = random.Random(workers), tmp_path / "killed", 0
    for attempt in range(KILLS):
        process = subprocess.Popen([*command, str(output), str(workers)])
        before = len(list(output.glob(".build/0*.json")))
        wanted = before + generator.randrange(1, 4)
        while process.poll() is None and len(list(output.glob(".build/0*.json"))) < wanted:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.02))
        workers_of_it = children(process.pid)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while any(map(alive, workers_of_it)):  # workers go with their parent
            assert time.monotonic() < deadline, f"workers of attempt {attempt} live on"
            time.sleep(0.02)
    assert killed >= 2
    subprocess.run([*command, str(output), str(workers)], check=True)
    assert digests(output) == digests(tmp_path / "whole")
    assert not (output / ".build").exists()
    assert documents(output) == texts * 80


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 6_000)


class StopError(Exception):
    pass


def interrupted(options: BuildOptions, monkeypatch: pytest.MonkeyPatch, partitions: int) -> None:
    """Run a build that dies after some partitions."""
    from data_tools import builder

    with monkeypatch.context() as patch:
        call, count = builder.PartitionJob.__call__, 0

        def counted(
            self: builder.PartitionJob, part: partition.Partition, report: Callable[[int], None]
        ) -> object:
            nonlocal count
            count += 1
            if count > partitions:
                (Path(options.output) / ".build" / "000009-000.123.tmp").write_bytes(b"half")
                (Path(options.output) / "000009-000.tar").write_bytes(b"unfinished")
                (Path(options.output) / ".index.json.123.tmp").write_bytes(b"half")
                raise StopError
            return call(self, part, report)

        patch.setattr(builder.PartitionJob, "__call__", counted)
        with pytest.raises(StopError):
            build(options)


@pytest.mark.usefixtures("small_partitions")
def test_resuming_does_only_what_is_left(
    tmp_path: Path,
    texts: list[str],
    byte_path: str,
    jsonl: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = jsonl(texts)
    options = BuildOptions((source,), byte_path, str(tmp_path / "out"), workers=1, block_tokens=1024)
    interrupted(options, monkeypatch, 3)
    done = (tmp_path / "out" / "000001-000.tar").stat().st_mtime_ns
    os.truncate(tmp_path / "out" / "000002-000.tar", 100)  # what a crash of the machine may leave
    (tmp_path / "out" / ".build" / "000000.json").write_text("{")
    report = build(options)
    assert report.resumed == 1
    assert (tmp_path / "out" / "000001-000.tar").stat().st_mtime_ns == done
    fresh = BuildOptions((source,), byte_path, str(tmp_path / "fresh"), workers=1, block_tokens=1024)
    assert build(fresh).resumed == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")
    again = build(options)
    assert (again.resumed, again.index) == (report.partitions, report.index)


@pytest.mark.usefixtures("small_partitions")
def test_other_arguments_are_refused(
    tmp_path: Path,
    texts: list[str],
    byte_path: str,
    tokenizer_path: str,
    jsonl: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = jsonl(texts)
    arguments: dict[str, Any] = {"inputs": (source,), "tokenizer": byte_path, "output": str(tmp_path / "out")}
    arguments |= {"block_tokens": 1024, "workers": 1}
    interrupted(BuildOptions(**arguments), monkeypatch, 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"block_tokens": 2048}, "block_tokens was 1024, now 2048"),
        ({"tokenizer": tokenizer_path}, "tokenizer_fingerprint was"),
        ({"text_key": "body"}, "text_key was 'text', now 'body'"),
        ({"inputs": (jsonl(texts, "other.jsonl"),)}, r"inputs was .*input\.jsonl.*other\.jsonl"),
    ]
    for change, message in cases:
        expected = f"holds an unfinished build of other arguments: .*{message}.*--restart"
        with pytest.raises(UserError, match=expected):
            build(BuildOptions(**{**arguments, **change}))
    os.utime(source, ns=(1, 1))
    with pytest.raises(UserError, match="the input files or their times have changed"):
        build(BuildOptions(**arguments))
    assert build(BuildOptions(restart=True, **arguments)).resumed == 0
    assert documents(tmp_path / "out") == texts
    with pytest.raises(UserError, match="holds a finished build of other arguments: text_key"):
        build(BuildOptions(text_key="x", **arguments))
    with pytest.raises(UserError, match="delete it"):
        build(BuildOptions(restart=True, **arguments))


def test_two_builds_do_not_share_a_directory(
    tmp_path: Path, byte_path: str, jsonl: Callable[..., str]
) -> None:
    (tmp_path / "out" / ".build").mkdir(parents=True)
    with open(tmp_path / "out" / ".build" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another build is writing it"):
            build(BuildOptions((jsonl(["a"]),), byte_path, str(tmp_path / "out"), workers=1))


def test_foreign_directories_are_left_alone(
    tmp_path: Path, byte_path: str, jsonl: Callable[..., str]
) -> None:
    source = jsonl(["a"])
    (tmp_path / "file").touch()
    for name in ("thesis.tex", "index.json", "000000-000.tar"):
        folder = tmp_path / f"holds-{name}"
        folder.mkdir()
        (folder / name).write_text("precious")
        with pytest.raises(UserError, match=f"holds something else .{name}|holds a finished build"):
            build(BuildOptions((source,), byte_path, str(folder), workers=1))
        assert (folder / name).read_text() == "precious"
    for output, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "x", "cannot be written")):
        with pytest.raises(UserError, match=message):
            build(BuildOptions((source,), byte_path, str(output), workers=1))
    with pytest.raises(UserError, match="must be a local directory"):
        build(BuildOptions((source,), byte_path, "s3://bucket/x", workers=1))
    with pytest.raises(UserError, match="lies inside --output"):
        build(BuildOptions((source,), byte_path, str(tmp_path), workers=1))


def attempt(kind: str, source: Path, output: Path, tokenizer: str, key: str) -> None:
    """A command that reads `key`."""
    inputs, place = (str(source),), str(output)
    if kind == "build":
        build(BuildOptions(inputs, tokenizer, place, 1, text_key=key))
    elif kind == "clean":
        clean(CleanOptions(inputs, place, 1, text_key=key, quality=(), near=False))
    else:
        build_images(ImageBuildOptions(inputs, place, 4, workers=1, image_key=key))


@pytest.mark.parametrize("kind", ["build", "clean", "images"])
def test_an_attempt_that_finished_nothing_is_not_in_the_way(
    tmp_path: Path, byte_path: str, kind: str
) -> None:
    """A typo in an option about reading; what is right afterwards needs no --restart."""
    table = pyarrow.table({"body": ["text"], "photo": [png()]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    wrong, right = ("phto", "photo") if kind == "images" else ("bdy", "body")
    for half in ([], [".build/000000-000.abcd.tmp"]):  # the last: of a process that was killed
        output = tmp_path / f"out{len(half)}"
        with pytest.raises(UserError, match=f"no column '{wrong}'"):
            attempt(kind, tmp_path / "a.parquet", output, byte_path, wrong)
        for name in half:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_bytes(b"half")
        attempt(kind, tmp_path / "a.parquet", output, byte_path, right)
        assert not (output / ".build").exists()
