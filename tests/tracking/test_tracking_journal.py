"""The journal: strict JSON, torn lines, winding back, a full disk."""

import errno
import json
import math
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.errors import IntegrityError
from pretrain.tracking.journal import Journal, decode, encode, read


def journal_of(path: Path, steps: range) -> Journal:
    journal = Journal(path)
    for step in steps:
        journal.append(step, {"loss": 1 / step}, when=100.0 + step)
    return journal


def steps_in(path: Path) -> list[float]:
    return [entry["step"] for entry in read(path)]


@given(st.dictionaries(st.text(min_size=1).filter(lambda k: k not in ("step", "time")), st.floats()))
def test_any_number_survives_as_strict_json(metrics: dict[str, float]) -> None:
    line = encode({"step": 1, **metrics})
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert line.count(b"\n") == 1
    entry = decode(line)
    assert entry is not None
    for name, value in metrics.items():
        assert entry[name] == value or (math.isnan(value) and math.isnan(entry[name]))


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "metrics.jsonl", range(1, 4))
    assert read(journal.path)[1] == {"step": 2, "time": 102.0, "loss": 0.5}
    with pytest.raises(ValueError, match="step 2 after step 3"):
        journal.append(2, {})
    journal.close()


def test_winding_back_needs_no_memory_for_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = encode({"step": 1, "loss": 1.0})
    path.write_bytes(line * 200_000 + encode({"step": 9}))
    journal = Journal(path)
    tracemalloc.start()
    assert journal.truncate_after(8).kept == 200_000
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 10
    tracemalloc.stop()
    assert path.read_bytes() == line * 200_000
    journal.close()


def test_winding_back_keeps_what_it_takes_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = journal_of(path, range(1, 11))
    follower = os.open(path, os.O_RDONLY)
    result = journal.truncate_after(6)
    assert (result.kept, result.superseded, result.damaged) == (6, 4, 0)
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]
    assert steps_in(tmp_path / "metrics.superseded.jsonl") == [7, 8, 9, 10]
    assert not os.path.samestat(os.fstat(follower), path.stat())  # a follower can tell
    journal.append(7, {"loss": 0.1})
    assert steps_in(path) == [1, 2, 3, 4, 5, 6, 7]
    journal.truncate_after(5)
    assert steps_in(tmp_path / "metrics.superseded.jsonl") == [7, 8, 9, 10, 6, 7]
    journal.close()


def test_nothing_to_wind_back_leaves_the_file_alone(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "metrics.jsonl", range(1, 4))
    before = journal.path.stat()
    assert journal.truncate_after(3).kept == 3
    assert os.path.samestat(before, journal.path.stat())
    assert not (tmp_path / "metrics.superseded.jsonl").exists()


@pytest.mark.parametrize("cut", range(1, 45))
def test_a_torn_last_line_is_repaired(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    journal_of(path, range(1, 4)).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    whole = cut >= len(lines[2]) - 1  # only the newline is missing: the line itself is good
    assert steps_in(path) == ([1, 2, 3] if whole else [1, 2])
    journal = Journal(path)
    result = journal.truncate_after(10)
    assert result.damaged == (0 if whole else 1)
    journal.append(11, {})
    assert steps_in(path) == ([1, 2, 3, 11] if whole else [1, 2, 11])


def test_damage_within_is_named_and_repaired_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal_of(path, range(1, 4)).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 20 + b"\n" + lines[2])
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl:2: not a line of a journal"):
        read(path)
    assert Journal(path).truncate_after(10).damaged == 1
    assert steps_in(path) == [1, 3]


def test_a_full_disk_loses_no_line_and_leaves_no_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_of(tmp_path / "metrics.jsonl", range(1, 3))
    write = os.write
    room = [10]

    def write_a_little(descriptor: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= (count := min(room[0], len(data)))
        return write(descriptor, data[:count])

    monkeypatch.setattr(os, "write", write_a_little)
    journal.append(3, {"loss": 0.3})
    journal.append(4, {"loss": 0.4})
    assert steps_in(journal.path) == [1, 2]
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        journal.sync()
    monkeypatch.setattr(os, "write", write)
    journal.append(5, {"loss": 0.5})
    journal.sync()
    assert steps_in(journal.path) == [1, 2, 3, 4, 5]
