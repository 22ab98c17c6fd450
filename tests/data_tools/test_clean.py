"""Cleaning removes what was planted and nothing else, whatever the number of workers and kills."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from data_tools import partition
from data_tools.clean import duplicates
from data_tools.clean.cleaner import clean
from data_tools.clean.keys import DocumentKeys
from data_tools.clean.options import CleanOptions
from data_tools.clean.report import CleanReport
from data_tools.embedded import language_reference
from data_tools.errors import UserError
from data_tools.parts import build_part, divide, missing_parts

RUN = """
import sys
from data_tools import partition
from data_tools.clean.cleaner import clean
from data_tools.clean.options import CleanOptions
if __name__ == "__main__":
    partition.SMALLEST_TARGET = partition.LARGEST_TARGET = 10_000
    output, workers, *inputs = sys.argv[1:]
    clean(CleanOptions(tuple(inputs), output, workers=int(workers), quality=()))
"""
SENSITIVE = {"bands": 32, "rows": 4}
WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ali", "ero", "inu", "osta", "urem", "and", "elk")]

GERMAN = """Der schnelle braune Fuchs springt über den faulen Hund, und niemand weiß heute noch, warum er das
tat. Wer morgens früh aufsteht, sieht die Sonne hinter den Bergen, bevor die Stadt erwacht und die Leute
zur Arbeit gehen; am Abend aber sitzen alle zusammen, essen Brot und erzählen von vergangenen Tagen
und Reisen."""


@pytest.fixture(autouse=True)
def _small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 10_000)


def document(seed: int, words: int = 400) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choices(WORDS, k=words))


def changed(text: str, seed: int, share: float = 0.05) -> str:
    """The text with that share of its words replaced, here and there."""
    generator, words = random.Random(seed), text.split()
    for place in generator.sample(range(len(words)), round(share * len(words))):
        words[place] = f"other{place}"
    return " ".join(words)


def rewritten(text: str) -> str:
    """The text with 5 % of its words replaced in one stretch, as a sentence is."""
    words = text.split()
    return " ".join(
        [*words[:100], *(f"other{n}" for n in range(len(words) // 20)), *words[100 + len(words) // 20 :]]
    )


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def kept(output: Path) -> list[str]:
    texts: list[str] = []
    for path in sorted(output.glob("*.jsonl.zst")):
        stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.read_bytes()), "utf-8")
        texts += [json.loads(line)["text"] for line in stream]
    return texts


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir() if path.name != "build.json"}


def run(inputs: list[str], output: Path, **options: Any) -> CleanReport:
    return clean(CleanOptions(tuple(inputs), str(output), **{"workers": 1, "quality": (), **options}))


@pytest.fixture
def planted(tmp_path: Path) -> tuple[list[str], list[str]]:
    """Two inputs of several partitions, with copies and near copies across them; and what must be left."""
    originals = [document(seed) for seed in range(40)]
    copies = [originals[3], originals[17], originals[17]]
    near = [changed(originals[seed], seed) for seed in (5, 21)] + [rewritten(originals[30])]
    others = [document(seed) for seed in range(100, 140)]
    second = [*others[:10], copies[0], near[0], *others[10:], near[1], *copies[1:], near[2], "short", "short"]
    inputs = [write(tmp_path / "a.jsonl", originals), write(tmp_path / "b.jsonl", second)]
    return inputs, [*originals, *others, "short"]


def test_exactly_what_was_planted_goes(planted: tuple[list[str], list[str]], tmp_path: Path) -> None:
    inputs, left = planted
    report = run(inputs, tmp_path / "out", **SENSITIVE)
    assert kept(tmp_path / "out") == left
    assert (report.documents, report.kept_documents) == (88, 81)
    assert (report.exact_duplicates, report.near_duplicates, report.removed) == (4, 3, {})
    assert report.partitions > 10
    assert report.kept_bytes == sum(len(text.encode()) for text in left)
    assert sorted(os.listdir(tmp_path / "out"))[-2:] == ["build.json", "report.json"]
    assert run(inputs, tmp_path / "out", **SENSITIVE) == report  # finished: nothing is done again
    copies_only = run(inputs, tmp_path / "copies", near=False)
    assert (copies_only.exact_duplicates, copies_only.near_duplicates) == (4, 0)
    default = run(inputs, tmp_path / "default")  # finds a sentence that was rewritten
    assert default.near_duplicates >= 1
    assert rewritten(document(30)) not in kept(tmp_path / "default")
    assert run(inputs, tmp_path / "all", exact=False, near=False).kept_documents == 88


def test_ranges_of_keys_find_the_same(
    planted: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, left = planted
    monkeypatch.setattr(duplicates, "AT_ONCE", 30)
    run(inputs, tmp_path / "out", **SENSITIVE)
    assert kept(tmp_path / "out") == left


def test_a_chain_of_near_copies_leaves_its_first(tmp_path: Path) -> None:
    chain = [document(1)]
    for step in range(6):
        chain.append(changed(chain[-1], step, 0.04))
    inputs = [write(tmp_path / "a.jsonl", [document(2), *chain])]
    run(inputs, tmp_path / "out", **SENSITIVE)
    assert kept(tmp_path / "out") == [document(2), document(1)]


def test_keys_do_not_depend_on_how_many_shingles_are_hashed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = DocumentKeys(CleanOptions((), ""), tmp_path)
    at_once = keys.of(document(1))
    monkeypatch.setattr("data_tools.clean.keys.SHINGLES_AT_ONCE", 100)
    assert keys.of(document(1)) == at_once
    assert len(at_once) == 15 * 16
    assert len(np.unique(np.frombuffer(at_once, "V16"))) == 15


@pytest.mark.slow
def test_two_workers_and_parts_give_the_same_bytes(
    planted: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    inputs, _ = planted
    run(inputs, tmp_path / "one")
    run(inputs, tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    options = CleanOptions(tuple(inputs), str(tmp_path / "parts"), workers=1, quality=())
    assert missing_parts(divide(options), 2) == [1, 2]
    build_part(divide(options), 1, 2)
    assert missing_parts(divide(options), 2) == [2]
    build_part(divide(options), 2, 2)
    clean(options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "one")
    assert missing_parts(divide(options), 2) is None


@pytest.mark.slow
def test_killed_cleanings_go_on(planted: tuple[list[str], list[str]], tmp_path: Path) -> None:
    inputs, _ = planted
    run(inputs, tmp_path / "whole")
    script, output = tmp_path / "run.py", tmp_path / "killed"
    script.write_text(RUN)
    command, killed = [sys.executable, str(script), str(output), "2", *inputs], 0
    for pattern in ("[0-9]*.json", "*/*-*.npy", "*/[0-9]*.json"):  # in each of the three stages
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(output.glob(f".build/{pattern}"))) < 3:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 2
    subprocess.run(command, check=True)
    assert contents(output) == contents(tmp_path / "whole")


def test_only_input_that_has_changed_is_done_again(
    planted: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, _ = planted
    options = CleanOptions(tuple(inputs), str(tmp_path / "out"), workers=1, quality=())
    missing_parts(divide(options), 1)
    total, _ = build_part(divide(options), 1, 1)
    later = [document(seed) for seed in range(200, 240)]
    write(tmp_path / "b.jsonl", later)
    filtered: list[int] = []
    monkeypatch.setattr("data_tools.clean.cleaner.FilterJob.__call__", _noting(filtered), raising=True)
    clean(options)
    assert 0 < len(filtered) < total
    assert kept(tmp_path / "out") == [document(seed) for seed in range(40)] + later


def _noting(filtered: list[int]) -> Any:
    from data_tools.clean.filtering import FilterJob

    call = FilterJob.__call__

    def note(self: Any, part: Any, report: Any) -> Any:
        filtered.append(part.number)
        return call(self, part, report)

    return note


def test_reasons_are_counted(tmp_path: Path) -> None:
    english = [text for _, text in language_reference() if len(text.split()) > 300][:3]
    repeated = "to be that or not to be that is the question here " * 40
    inputs = [write(tmp_path / "a.jsonl", [*english, GERMAN, "too short", repeated, "", "# . ! " * 100])]
    report = run(inputs, tmp_path / "out", quality=("gopher", "repetition"), language="en", min_words=40)
    assert kept(tmp_path / "out") == english
    assert report.removed["gopher_short_doc"] == 2
    assert sum(report.removed.values()) == 4
    assert (report.empty_documents, report.documents) == (1, 7)
    assert run(inputs, tmp_path / "de", language="de").removed["language_en"] >= 3
    assert kept(tmp_path / "de") == [GERMAN]


PROSE = [f"This is a sentence with the number {number} in it." for number in range(4)]
TAKEN_OUT = {
    "no_terminal_punc": ["Home | About | Contact us today", "You will not believe what comes next ..."],
    "too_few_words": ["Read on now."],
    "too_long_word": [f"Here is {'a' * 1001} in one line."],
    "javascript": ["Please enable JavaScript to see all of this page."],
    "policy": ["By reading on you accept our Cookie Policy in full.", "This page uses cookies to know you."],
}


def test_c4_takes_lines_out(tmp_path: Path) -> None:
    page = [PROSE[0], *(line for lines in TAKEN_OUT.values() for line in lines), f"  {PROSE[1]}  ", PROSE[2]]
    inputs = [write(tmp_path / "a.jsonl", ["\n".join(page)])]
    report = run(inputs, tmp_path / "out", quality=("c4",))
    assert kept(tmp_path / "out") == ["\n".join(PROSE[:3])]
    assert report.lines == {reason: len(lines) for reason, lines in TAKEN_OUT.items()}
    assert report.kept_bytes == len("\n".join(PROSE[:3]))
    assert (report.documents, report.kept_documents, report.removed) == (1, 1, {})
    assert run(inputs, tmp_path / "out", quality=("c4",)) == report
    strict = run(inputs, tmp_path / "strict", quality=("c4",), min_line_words=11)
    assert (strict.removed, strict.lines) == ({"too_few_sentences": 1}, {})


def test_c4_removes_documents(tmp_path: Path) -> None:
    good = "\n".join(PROSE)
    documents = {
        "lorem_ipsum": f"{good}\nLorem ipsum dolor sit amet is here.",
        "curly_bracket": f"{good}\nHere is the code {{ that we wrote.",
        "too_few_sentences": "\n".join(PROSE[:2]),
    }
    inputs = [write(tmp_path / "a.jsonl", [*documents.values(), good, " ".join(PROSE[:3])])]
    report = run(inputs, tmp_path / "out", quality=("c4",), near=False)
    assert kept(tmp_path / "out") == [good, " ".join(PROSE[:3])]  # sentences of a line are counted too
    assert report.removed == dict.fromkeys(documents, 1)
    assert run(inputs, tmp_path / "four", quality=("c4",), min_sentences=4).kept_documents == 1


def test_other_rules_judge_what_c4_leaves(tmp_path: Path) -> None:
    """Pages that differ in their menus alone are copies, and what is left may be too short."""
    pages = [f"Menu of page {page}\n" + "\n".join(PROSE) + f"\nPage {page}" for page in range(3)]
    inputs = [write(tmp_path / "a.jsonl", pages)]
    assert run(inputs, tmp_path / "plain").exact_duplicates == 0
    report = run(inputs, tmp_path / "c4", quality=("c4",))
    assert (report.exact_duplicates, report.kept_documents) == (2, 1)
    words = len(" ".join(PROSE).split())
    for least, removed in ((words, {}), (words + 1, {"gopher_short_doc": 3})):
        options = {"quality": ("gopher", "c4"), "min_words": least}
        assert run(inputs, tmp_path / f"least-{least}", **options).removed == removed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_sentences": 4}, "--min-line-words, --min-sentences: have no effect without --quality c4"),
        ({"quality": ("c4",), "min_line_words": 0}, "--min-line-words 0, --min-sentences 3: 1 or more"),
        ({"language": "english"}, "--language english: an ISO 639-1 code .* such as en"),
        ({"min_words": 10}, "have no effect without --quality gopher"),
        ({"quality": ("gopher",), "min_words": 9, "max_words": 8}, "--min-words 9, --max-words 8"),
        ({"language_share": 0.5}, "--language-share 0.5: has no effect without --language"),
        ({"bands": 200, "rows": 8}, "up to 1024 hashes"),
        ({"near": False, "bands": 20}, "have no effect with --no-near"),
        ({"text_key": "body"}, "no key 'body'"),
        ({"document": "line"}, "has an effect on .txt alone"),
        ({"output": "s3://bucket/x"}, "must be a local directory"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    inputs = (write(tmp_path / "a.jsonl", ["some text"]),)
    with pytest.raises(UserError, match=message):
        clean(
            CleanOptions(
                **{"inputs": inputs, "output": str(tmp_path / "o"), "quality": (), "workers": 1, **options}
            )
        )


def test_other_options_are_refused_in_a_finished_directory(tmp_path: Path) -> None:
    inputs = [write(tmp_path / "a.jsonl", ["some text"])]
    run(inputs, tmp_path / "out")
    with pytest.raises(UserError, match="bands was 14, now 15"):
        run(inputs, tmp_path / "out", bands=15)
    write(tmp_path / "a.jsonl", ["another text"])
    with pytest.raises(UserError, match="the input files or their times have changed"):
        run(inputs, tmp_path / "out")
