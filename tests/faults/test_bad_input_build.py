"""Bad text in `pretrain data build`: file and line are named, and nothing half-built can be trained on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input_commands import Commands, write_run
from shard_files import documents

pytestmark = pytest.mark.slow
GOOD = b'{"text": "good"}\n'

REFUSED: dict[str, tuple[str, bytes | None, str]] = {
    "not UTF-8, in a line": (
        "a.jsonl",
        GOOD + b'{"text": "\xff"}\n',
        "a.jsonl, line 2: not UTF-8: byte 0xff",
    ),
    "not UTF-8, in a file": ("a.txt", b"caf\xe9 ", "a.txt: not UTF-8: byte 0xe9"),
    "UTF-16": ("a.txt", "text".encode("utf-16"), "a.txt: not UTF-8: byte 0xff"),
    "cut JSON": ("a.jsonl", GOOD + b'{"text": ', "a.jsonl, line 2: not JSON"),
    "no text": ("a.jsonl", b'{"body": "x"}\n', "line 1: no key 'text'; its keys are 'body' (see --text-key)"),
    "NUL bytes for JSON": ("a.jsonl", GOOD + b"\0\0\0\n", "a.jsonl, line 2: not JSON"),
    "empty file": ("a.txt", b"", "there is no text in it, so there is nothing to build"),
    "empty texts": ("a.jsonl", b'{"text": ""}\n\n', "there is no text in it, so there is nothing to build"),
    "no file": ("a", None, "nothing there matches"),
    "other files": ("a.md", b"x", "no file ends in .txt, .jsonl, .parquet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_text_that_is_none(commands: Commands, good_shards: Path, tmp_path: Path, case: str) -> None:
    name, content, message = REFUSED[case]
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / "in" / name).write_bytes(content)
    output = tmp_path / "out"
    source = ["--input", tmp_path / "in", "--output", output]
    build = ["data", "build", "--tokenizer", good_shards / "tokenizer", "--workers", 1, *source]
    commands.run(*build).refused(2, "" if "no text in it" in message else f"{tmp_path}/in", message)
    assert not (output / "index.json").exists()
    commands.run("train", write_run(tmp_path, output)).refused(
        3 if (output / ".build").exists() else 2, str(output)
    )
    commands.run(
        "data", "tokenizer", "--model-type", "char", *source[:2], "--output", tmp_path / "t"
    ).refused(2)
    assert not (tmp_path / "t").exists()


def test_a_tokenizer_that_is_none(commands: Commands, good_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    source = ["data", "build", "--input", tmp_path / "a.txt", "--output", tmp_path / "out", "--tokenizer"]
    wrong = {tmp_path / "gone": "no such file or folder", good_shards: "holds no *.json, *.model, *.tiktoken"}
    for path, why in wrong.items():
        commands.run(*source, path).refused(2, f"{path}: not a tokenizer directory or file ({why}")
    assert not (tmp_path / "out").exists()


def test_nul_bytes_are_text(commands: Commands, good_shards: Path, tmp_path: Path) -> None:
    """They have a byte of their own in every tokenizer, so they are kept."""
    text = "a\0b\0\0" * 30
    (tmp_path / "a.txt").write_text(text)
    out, tokenizer = tmp_path / "out", good_shards / "tokenizer"
    built = commands.run("data", "build", "--input", tmp_path, "--tokenizer", tokenizer, "--output", out)
    assert built.code == 0 and documents(out) == [text]
    assert commands.run("data", "verify", out).code == 0
    assert commands.run("train", write_run(tmp_path / "r", out)).code == 0


PEAK = (
    "import re, sys; from pretrain.cli import main\n"
    "try: main()\n"
    "except SystemExit as end: assert not end.code\n"
    "print('peak', re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
)


@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_memory_is_bounded_by_the_longest_line(good_shards: Path, tmp_path: Path, ending: str) -> None:
    """A line of 16 MB: a few copies of a line of .jsonl are held, and no more than pieces of a .txt file."""
    size, words = 16_000_000, "0123456789 abcde"
    line = words * (size // len(words))
    (tmp_path / f"long.{ending}").write_text(f'{{"text": "{line}"}}\n' if ending == "jsonl" else line)
    (tmp_path / f"short.{ending}").write_text('{"text": "x"}\n' if ending == "jsonl" else "x")
    peaks = []
    for name in ("short", "long"):
        argv = ["data", "build", "--input", f"{name}.{ending}", "--output", name, "--workers", "1"]
        command = [sys.executable, "-c", PEAK, *argv, "--tokenizer", str(good_shards / "tokenizer")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = re.search(r"peak (\d+)", done.stdout)
        assert found
        peaks.append(int(found[1]) * 1024)
    most = 5 * size if ending == "jsonl" else 2.5 * size
    assert peaks[1] - peaks[0] < most, f"{peaks[1] - peaks[0]:,} bytes for a line of {size:,}"
