"""Who is named as the one that the others wait for, and how long a phase may last."""

import itertools
import json
import math
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pretrain.distributed.ranks import some_ranks
from pretrain.health.hang import judge
from pretrain.health.heartbeat import Heartbeat, HeartbeatWriter, pid_space, read_heartbeat
from pretrain.health.phase_timer import Moment, Phase, PhaseTimer, phase_limit
from pretrain.health.stop import StopFiles, StopReason, clear
from pretrain.health.stragglers import WINDOW, Stragglers
from pretrain.health.watchdog import Watchdog, WatchedJob
from pretrain.run.signals import Signals


def beat(rank: int, phase: Phase, step: int = 7, lasted: float = 0.0, limit: float | None = 60) -> Heartbeat:
    place = "elsewhere [1]"
    return Heartbeat("job", rank, f"n{rank // 2}", 10, place, 1, 0.0, step, phase.value, 0, lasted, limit)


def said(*beats: Heartbeat, silent: tuple[int, ...] = ()) -> str | None:
    return judge({each.rank: each for each in beats}, silent)


def test_the_rank_that_has_come_least_far_is_named() -> None:
    waiting = [beat(rank, Phase.REDUCTION, lasted=90) for rank in (0, 1, 2, 4)]
    found = said(*waiting, beat(3, Phase.DATA, lasted=91))
    assert found == (
        "rank 3 on n1 in data wait of step 7 for 91 s; ranks 0-2, 4 wait in all-reduce of gradients of step 7"
    )
    ahead = beat(1, Phase.DATA, step=8, lasted=90)
    assert str(said(beat(0, Phase.JOURNAL, lasted=90), ahead)).startswith("rank 0 on n0 in journal of step 7")


def test_who_may_still_take_its_time_is_not_accused() -> None:
    late = beat(0, Phase.DATA, step=8, lasted=90)
    assert said(late, beat(1, Phase.SAVING, lasted=90, limit=3600)) is None
    assert said(late, beat(1, Phase.SAVING, lasted=90, limit=None)) is None
    assert said(late, beat(1, Phase.SAVING, lasted=3601, limit=3600)) is not None


def test_all_in_one_phase_and_ranks_that_ended() -> None:
    both = [beat(rank, Phase.COMPUTE, lasted=70) for rank in (0, 1)]
    assert str(said(*both)).startswith("all 2 ranks in forward and backward of step 7 for 70 s")
    assert said(beat(0, Phase.ENDED), beat(1, Phase.ENDED)) is None


def test_silence_comes_before_all() -> None:
    found = str(said(beat(0, Phase.REDUCTION), beat(1, Phase.DATA), beat(2, Phase.REDUCTION), silent=(2,)))
    assert found.startswith("rank 2 on n1 (pid 10) gives no sign of life since ")
    assert found.endswith(
        "rank 0 waits in all-reduce of gradients of step 7; rank 1 waits in data wait of step 7"
    )
    assert str(judge({0: beat(0, Phase.START), 1: None}, [1])).startswith(
        "rank 1 has given no sign of life at"
    )
    gone = replace(beat(1, Phase.DATA), space=pid_space(), pid=2**22 + 1)
    assert "rank 1 on n0 (pid 4194305) is gone: killed" in str(said(beat(0, Phase.DATA), gone, silent=(1,)))


@pytest.mark.parametrize(
    ("timeout", "phase", "part", "usual", "limit"),
    [
        (None, Phase.DATA, 0, 1.0, 120),
        (None, Phase.COMPUTE, 0, 30.0, 600),
        (30, Phase.COMPUTE, 0, 1.0, 30),
        (30, Phase.COMPUTE, 0, None, 1800),
        (30, Phase.DATA, 0, None, 30),
        (30, Phase.START, 0, 1.0, 1800),
        (30, Phase.SAVING, 0, 1.0, 3600),
        (7200, Phase.SAVING, 0, 1.0, 7200),
        (30, Phase.VALIDATION, 0, 1.0, 1800),
        (30, Phase.VALIDATION, 3, 1.0, 30),
        (0, Phase.DATA, 0, 1.0, math.inf),
        (30, Phase.ENDED, 0, 1.0, math.inf),
    ],
)
def test_limits_of_phases(
    timeout: float | None, phase: Phase, part: int, usual: float | None, limit: float
) -> None:
    assert phase_limit(timeout, Moment(5, phase, part, 0.0), usual) == limit


def test_a_pulse_counts_own_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate((0, 0, 2, 50, 3, 0, 0, 0, 0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    pulse = PhaseTimer()
    pulse.mark(Phase.DATA, 1)
    pulse.mark(Phase.REDUCTION)
    pulse.mark(Phase.COMPUTE)
    pulse.mark(Phase.UPDATE)
    assert pulse.lap() == 5 and pulse.lap() == 0
    assert pulse.usual_step is None
    for step in range(2, 6):
        pulse.mark(Phase.DATA, step)
    assert pulse.usual_step is not None


def test_a_phase_begins_when_the_gpu_gets_there() -> None:
    pulse, reached = PhaseTimer(), False
    pulse.mark(Phase.COMPUTE, 1)
    pulse.mark(Phase.REDUCTION, reached=lambda: reached)
    assert pulse.now.phase is Phase.COMPUTE
    reached = True
    assert pulse.now.phase is Phase.REDUCTION
    reached = False
    pulse.mark(Phase.UPDATE)
    assert pulse.now.phase is Phase.UPDATE


def test_a_heartbeat_is_one_small_file_of_one_job(tmp_path: Path) -> None:
    heart = HeartbeatWriter(tmp_path, "a", 3)
    for step in (9, 10):
        written = heart.beat(Moment(step, Phase.DATA, 0, 0.0), math.inf)
    assert read_heartbeat(tmp_path, 3, "a") == written and written.count == 2 and written.limit is None
    assert read_heartbeat(tmp_path, 3, "b") is None and read_heartbeat(tmp_path, 4) is None
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 512
    file.write_bytes(file.read_bytes()[:100])
    assert read_heartbeat(tmp_path, 3) is None


def test_a_verdict_that_is_being_written_counts(tmp_path: Path) -> None:
    first, second = StopReason(1, "first", 3, 0, False), StopReason(4, "second", 0, 0, True)
    file = tmp_path / "verdict-job.json"
    file.touch()
    writes = threading.Timer(0.2, lambda: file.write_text(json.dumps(asdict(first))))
    writes.start()
    assert StopFiles(tmp_path, "job").post(second) == first
    file.write_text("")  # its writer died
    assert StopFiles(tmp_path, "job").post(second) == second


def test_the_first_verdict_counts(tmp_path: Path) -> None:
    board = StopFiles(tmp_path, "job")
    assert board.verdict() is None and board.asked_to_stop() == 0
    first, second = StopReason(1, "first", 3, 0, False), StopReason(4, "second", 0, 0, True)
    assert board.post(first) == first and board.post(second) == first == board.verdict()
    board.ask_to_stop(15)
    assert board.asked_to_stop() == 15
    assert StopFiles(tmp_path, "next job").verdict() is None
    (tmp_path / "rank-0000.json").write_text(json.dumps({}))
    (tmp_path / "mine.txt").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_stragglers_are_told_once_and_when_they_keep_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    watch = Stragglers(3, lambda rank: f"rank {rank} on n{rank}")
    ratios = [watch.add([1.0, 1.4, 1.0]) for _ in range(2 * WINDOW)]
    assert ratios == pytest.approx([1.4] * 2 * WINDOW)
    for _ in range(WINDOW):
        watch.add([1.0, 1.0, 1.0])
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("straggler: rank 1 on n1 takes 1.40 times as long as the median rank")
    assert told[1:] == ["rank 1 on n1 keeps up with the others again"]
    assert Stragglers(1, str).add([1.0]) is None


def test_ranks_in_words() -> None:
    assert some_ranks([3]) == "rank 3"
    assert some_ranks([7, 0, 1, 2, 3]) == "ranks 0-3, 7"
    assert some_ranks([0, 1]) == "ranks 0, 1"


def test_a_rank_that_ends_says_so_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or those who are slower to end would take it for one that was killed."""
    honest = HeartbeatWriter.beat

    def slowly(heart: HeartbeatWriter, moment: Moment, limit: float) -> Heartbeat:
        time.sleep(0.05)
        return honest(heart, moment, limit)

    monkeypatch.setattr(HeartbeatWriter, "beat", slowly)
    for number in range(8):
        job = WatchedJob(f"job {number}", tmp_path, tmp_path / "log", 0, 1, None, lambda verdict: None)
        pulse = PhaseTimer()
        with Signals() as signals, Watchdog(job, pulse, signals):
            time.sleep(0.01 * number)
        last = read_heartbeat(tmp_path, 0, job.id)
        assert last is not None and last.ended
