"""The commands from the outside: what they print, how they end, and that none of them needs torch."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from shard_files import documents
from typer.testing import CliRunner, Result

from data_tools.bad_records import parse_bad_records
from data_tools.cli import app
from data_tools.embedded import english, language_reference, packages, stdlib_source
from data_tools.errors import IntegrityError, UserError
from data_tools.progress import Progress, amount

WITHOUT_TORCH = """
import sys
from data_tools.cli import app
from data_tools.errors import UserError
assert not {"numpy", "sentencepiece", "pyarrow"} & set(sys.modules), "the commands must be cheap to list"
out = sys.argv[1]
for arguments in (
    ["embedded", "--corpus", "language-reference", "--output", out + "/text"],
    ["tokenizer", "--input", out + "/text", "--vocab-size", "600", "--output", out + "/tokenizer"],
    ["clean", "-i", out + "/text", "-o", out + "/clean", "--language", "en", "--workers", "1"],
    ["build", "-i", out + "/text", "-t", out + "/tokenizer", "-o", out + "/shards", "--workers", "2"],
    ["verify", out + "/shards"],
    ["inspect", out + "/shards"],
):
    app(arguments, standalone_mode=False)
import data_tools.embedded, data_tools.progress
assert "torch" not in sys.modules
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_all_commands_without_torch(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(f'if __name__ == "__main__":\n    exec({WITHOUT_TORCH!r})\n')
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "documents" in result.stdout
    assert "good; 1 shard," in result.stdout


def test_a_build_reports_what_it_did(tmp_path: Path, byte_path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "abc"}\n{"text": ""}\n{"txt": 1}\n')
    (tmp_path / "in" / "notes.md").touch()
    arguments = ["build", "-i", tmp_path / "in", "-t", byte_path, "-o", tmp_path / "out", "--workers", 1]
    assert "a.jsonl, line 3: no key 'text'" in str(call(*arguments).exception)
    result = call(*arguments, "--bad-records", "skip:5")
    assert result.exit_code == 0
    for expected in (
        "1 document, 4 tokens, 0.750 bytes per token, 1 shard,",
        "1 empty document left out",
        "1 file in input folders left out: 1 .md (0 B)",
        "1 bad record skipped",
        "a.jsonl, line 3: no key 'text'; its keys are 'txt' (see --text-key)",
    ):
        assert expected in result.output
    assert "1 of 1 partitions were done before" in call(*arguments, "--bad-records", "skip:5").output


def odd_corpus(folder: Path) -> Path:
    """Good texts in odd shapes, two files that cannot be read, and one that is no text."""
    (folder / "sub folder").mkdir(parents=True)
    (folder / "empty.txt").touch()
    (folder / "notes.md").write_text("notes")
    (folder / "crlf.txt").write_bytes(b"First line.\r\n\r\nLast line.\r\n")
    (folder / "giant.txt").write_text("word " * 40_000)
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"zip " * 999)[:-9])
    (folder / "sub folder" / "packed.txt.gz").write_bytes(gzip.compress(b"packed\n"))
    (folder / "sub folder" / "lines.jsonl").write_bytes(b'{"text": "one"}\r\n\r\n{"text": "two"}')
    return folder


def test_an_odd_corpus_goes_all_the_way(tmp_path: Path) -> None:
    corpus, skip = odd_corpus(tmp_path / "my corpus"), ("--bad-records", "skip:2")
    train = ["tokenizer", "-i", corpus, "--model-type", "char", "-o", tmp_path / "tokenizer"]
    for few in ((), ("--bad-records", "skip:1")):
        error = call(*train, *few).exception
        assert isinstance(error, UserError)
        assert "--bad-records" in str(error)
    result = call(*train, *skip)
    assert result.exit_code == 0, result.exception
    assert "2 bad records skipped:\n" in result.output
    assert "latin.txt: not UTF-8: byte 0xe9" in result.output
    rules = ("--quality", "none", "--no-near", "--workers", 1)
    result = call("clean", "-i", corpus, "-o", tmp_path / "clean", *rules, *skip)
    assert result.exit_code == 0, result.exception
    assert f"2 bad records skipped (all in {tmp_path / 'clean' / 'report.json'})" in result.output
    build = ("build", "-t", tmp_path / "tokenizer", "--workers", 1)
    result = call(*build, "-i", tmp_path / "clean", "-o", tmp_path / "shards")  # reads no list of bad records
    assert result.exit_code == 0, result.exception
    texts = ["First line.\r\n\r\nLast line.\r\n", "word " * 40_000, "one", "two", "packed\n"]
    assert documents(tmp_path / "shards") == texts


def test_a_cleaning_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    result = call("clean", "-i", tmp_path / "a.txt", "-o", tmp_path / "out", "--workers", 1)
    assert "gopher_short_doc" in result.output
    assert f"{tmp_path / 'out'}: no document is left\n" in result.output


def test_options_of_a_tokenizer_without_effect_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n')
    byte = ("tokenizer", "--model-type", "byte", "-o", tmp_path / "out")
    assert "have no effect on a byte tokenizer" in str(call(*byte, "--text-key", "body").exception)
    lines = ("tokenizer", "--model-type", "char", "-i", tmp_path / "a.jsonl", "--document", "line")
    assert "has an effect on .txt alone" in str(call(*lines, "-o", tmp_path / "out").exception)


def test_verify_ends_with_all_faults(shards: Path) -> None:
    assert call("verify", shards).output.endswith("documents\n")
    (shards / "000000-000.tar").write_bytes(b"")
    (shards / "000099-000.tar").write_bytes(b"")
    error = call("verify", shards).exception
    assert isinstance(error, IntegrityError)
    assert error.exit_code == 3
    assert "2 faults\n  000099-000.tar: not in the index" in str(error)
    assert "000000-000.tar: 0 bytes" in str(error)


def test_tokenizer_command(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "some text\n" * 20}) + "\n{\n")
    cases = {
        ("--input", tmp_path / "a.jsonl", "--vocab-size", 300): "line 2: not JSON",
        ("--vocab-size", 300): "--input: give at least one file",
        ("--input", tmp_path / "a.jsonl", "--model-type", "byte"): "a byte tokenizer is not trained",
        ("--model-type", "byte", "--vocab-size", 300): "always has 257",
    }
    for arguments, message in cases.items():
        error = call("tokenizer", *arguments, "--output", tmp_path / "out").exception
        assert isinstance(error, UserError)
        assert message in str(error)
    assert (
        "byte tokenizer of 257"
        in call("tokenizer", "--model-type", "byte", "--output", tmp_path / "out").output
    )
    error = call("tokenizer", "--model-type", "byte", "--output", tmp_path / "out").exception
    assert "exists; give a new or empty directory" in str(error)


def test_bad_records_option() -> None:
    assert parse_bad_records("stop") == 0
    assert parse_bad_records("skip:20") == 20
    for value in ("skip", "skip:", "skip:-1", "skip:0", "skip:x", "go", "stop:3", "skip:1.5"):
        with pytest.raises(UserError, match="--bad-records"):
            parse_bad_records(value)


def test_embedded_text_is_real_and_in_order() -> None:
    sources = list(stdlib_source())
    assert len(sources) > 300
    assert sum(len(text) for _, text in sources) > 3_000_000
    assert not any({"test", "site-packages"} & set(Path(name).parts) for name, _ in sources)
    topics = list(language_reference())
    assert len(topics) > 50
    for corpus in (sources, topics):
        names = [name for name, _ in corpus]
        assert len(set(names)) == len(names)
    assert [name for name, _ in topics] == sorted(name for name, _ in topics)


def test_packages_add_each_text_once(tmp_path: Path) -> None:
    long = "A module about foxes, hens and geese, and of what they say to each other at night. " * 5
    files = {"a/one.py": long, "a/two.py": long, "b/short.py": "Foxes.", "b/tests/test_it.py": long + "x"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""{text}"""\n')
    (tmp_path / "b" / "broken.py").write_text(f'"""{long} y"""\ndef (\n')
    found = list(packages(str(tmp_path)))
    texts = [text for _, text in found]
    assert ("a/one.py", long.strip()) in found and len(set(texts)) == len(texts)
    assert set(texts) == {text for _, text in english()} | {long.strip()}
    names = [name for name, _ in found]
    assert names != sorted(names) and found == list(packages(str(tmp_path)))


def test_progress_prints_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 100, 6))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with Progress("reading", total=100, unit="doc") as progress:
        for _ in range(4):
            progress.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 20 doc of 100 doc (20 %), 48 s to go, 2 doc/s",
        "reading: 40 doc of 100 doc (40 %), 36 s to go, 2 doc/s",
    ]
    shown = [amount(value, "B") for value in (0, 999, 1500, 2.5e7, 3e9, 4e12)]
    assert shown == ["0 B", "999 B", "1.5 kB", "25 MB", "3 GB", "4 TB"]
