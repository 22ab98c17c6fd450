"""Ranks of a preflight wait for one verdict, and read no more files than there are ranks."""

from pathlib import Path

import pytest

from slurm import findings, preflight
from slurm.findings import RankFinding, write_finding


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The reports that have been read."""
    found: list[Path] = []
    plain = findings.read_bytes

    def read_bytes(path: Path, most: int) -> bytes:
        found.append(path)
        return plain(path, most)

    monkeypatch.setattr(findings, "read_bytes", read_bytes)
    monkeypatch.setattr(preflight, "GRACE_SECONDS", 0.0)
    return found


def test_rank_0_reads_each_report_once_and_the_others_none(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(5):
        write_finding(tmp_path, RankFinding(rank, "n0"))
    # The last rank reports while rank 0 is waiting.
    monkeypatch.setattr(preflight.time, "sleep", lambda _: write_finding(tmp_path, RankFinding(5, "n1")))
    assert preflight.all_are_well(tmp_path, 0, 6)
    assert sorted(path.name for path in read) == [f"rank-{rank:04d}.json" for rank in range(6)]
    read.clear()
    assert preflight.all_are_well(tmp_path, 3, 6) and not read


def test_a_bad_report_is_a_verdict_before_all_are_there(tmp_path: Path, read: list[Path]) -> None:
    write_finding(tmp_path, RankFinding(0, "n0"))
    write_finding(tmp_path, RankFinding(1, "n0", error="no driver"))
    assert not preflight.all_are_well(tmp_path, 0, 6)
    assert not preflight.all_are_well(tmp_path, 2, 6)
