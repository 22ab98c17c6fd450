"""What follows an attempt, which nodes a preflight speaks against, what a submission keeps."""

from pathlib import Path
from typing import Any

import pytest
from config_files import small_config

from pretrain.config.sections.slurm import seconds_of
from pretrain.errors import UserError
from pretrain.run.folder import RunFolder
from pretrain.run.status import State, Status, read_status, write_status
from pretrain.tracking.journal import Journal
from slurm.findings import RankFinding, judge_nodes, write_finding
from slurm.job import down_nodes, first_failure, judge, mark_cancelled, told_error
from slurm.measured import signal_seconds, step_seconds
from slurm.submission import Attempt, bad_nodes, exclude_nodes, new_submission, submissions
from slurm.tasks import Tasks, tasks_of
from slurm.verdict import after, before


def attempts(*steps: int, **last: Any) -> list[Attempt]:
    return [Attempt("7", number, ("n1", "n2"), step, 0.0, **last) for number, step in enumerate(steps)]


@pytest.mark.parametrize(
    ("steps", "most", "code", "words"),
    [
        ((0,), 9, 0, "starting after step 0"),
        ((0, 0), 9, 0, "starting"),
        ((0, 0, 0), 9, 4, "2 restarts in a row made no progress after step 0"),
        ((0, 5, 5, 9), 9, 0, "starting after step 9"),
        ((0, 5, 9, 9, 9), 9, 4, "after step 9"),
        ((0, 5, 9), 1, 4, "1 restart did not suffice"),
        ((0, 5, 9), 2, 0, "starting after step 9"),  # its second restart, of two
    ],
)
def test_whether_an_attempt_may_begin(steps: tuple[int, ...], most: int, code: int, words: str) -> None:
    verdict = before(attempts(*steps), most)
    assert verdict.code == code
    assert words in verdict.reason


def test_an_attempt_that_found_a_bad_node_has_not_tried() -> None:
    assert before(attempts(0, 0, 0, phase="preflight"), 9).code == 0


@pytest.mark.parametrize(
    ("code", "most", "follows"),
    [(0, 9, 0), (75, 9, 75), (75, 2, 4), (75, 3, 75), (1, 9, 1), (2, 9, 2), (4, 9, 4), (137, 9, 137)],
)
def test_what_follows_an_attempt(code: int, most: int, follows: int) -> None:
    assert after(attempts(0, 5, 9), most, "train", code, None).code == follows


def found(rank: int, host: str, **changes: Any) -> RankFinding:
    usual = {"device": "H100", "devices": 8, "versions": {"code": "a"}, "matmul_seconds": 0.1, "clock": 100.0}
    return RankFinding(rank, host, **(usual | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"error": "CUDA error", "matmul_seconds": None}, "rank 2: CUDA error"),
        ({"versions": {"code": "b"}}, "code b, on most nodes a"),
        ({"devices": 7}, "devices 7, on most nodes 8"),
        ({"matmul_seconds": 0.5}, "0.500 s, not 0.100 s"),
        ({"clock": 110.0}, "clock is +10.0 s off"),
        ({"clock": 97.5}, "clock is -2.5 s off"),
        ({"error": "Connection reset"}, "rank 2: Connection reset"),
    ],
)
def test_a_bad_node_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    hosts = ["n1", "n2", "n3"]
    for rank, host in enumerate(hosts):
        write_finding(tmp_path, found(rank, host, **(changes if host == "n3" else {})))
    judged = judge_nodes(tmp_path, hosts)
    assert list(judged.bad) == ["n3"]
    assert reason in judged.bad["n3"]


def test_a_node_that_is_silent_is_bad_and_its_victims_are_not(tmp_path: Path) -> None:
    for rank, host in enumerate(["n1", "n2"]):
        write_finding(tmp_path, found(rank, host, error="Timed out waiting for 2 of 3 ranks"))
    assert judge_nodes(tmp_path, ["n1", "n2", "n3"]).bad == {"n3": "did not answer"}


def test_two_nodes_that_differ_accuse_nobody(tmp_path: Path) -> None:
    write_finding(tmp_path, found(0, "n1"))
    write_finding(tmp_path, found(1, "n2", versions={"code": "b"}))
    judged = judge_nodes(tmp_path, ["n1", "n2"])
    assert not judged.bad
    assert judged.undecided == ("nodes differ in code: a on n1, b on n2",)


def test_of_two_nodes_that_met_the_one_that_fails_may_be_the_victim(tmp_path: Path) -> None:
    write_finding(tmp_path, found(0, "n1"))
    write_finding(tmp_path, found(1, "n2", error="Connection reset"))
    judged = judge_nodes(tmp_path, ["n1", "n2"])
    assert not judged.bad
    assert judged.undecided == ("n2: rank 1: Connection reset",)


def test_clocks_and_products_that_are_within_bounds_pass(tmp_path: Path) -> None:
    """A second and a half off, and two and a half times as slow."""
    for rank, clock in enumerate((100.0, 101.5, 98.5)):
        write_finding(tmp_path, found(rank, f"n{rank}", clock=clock, matmul_seconds=0.1 + 0.15 * (rank == 2)))
    judged = judge_nodes(tmp_path, ["n0", "n1", "n2"])
    assert not judged.bad and not judged.undecided


@pytest.mark.parametrize(
    ("broken", "code", "ends", "left_out"),
    [
        ((), 0, 0, []),
        ((2,), 0, 75, ["n2"]),
        ((2,), 1, 75, ["n2"]),
        ((0, 1, 2), 75, 4, []),  # no other node would mend what all of them have
        ((0, 1, 2), 0, 4, []),
        ((0, 1, 2), 1, 1, []),
    ],
)
def test_bad_nodes_are_left_out_unless_all_are(
    tmp_path: Path, broken: tuple[int, ...], code: int, ends: int, left_out: list[str]
) -> None:
    submission = new_submission(tmp_path)
    [attempt] = attempts(0)
    submission.note(attempt)
    hosts = ["n0", "n1", "n2"]
    for rank, host in enumerate(hosts):
        changes = {"error": "no device", "matmul_seconds": None} if rank in broken else {}
        write_finding(submission.preflight / "7.0", found(rank, host, **changes))
    assert judge(submission, code, hosts) == ends
    assert list(bad_nodes(tmp_path)) == left_out


def test_submissions_and_bad_nodes_are_kept(tmp_path: Path) -> None:
    first, second = new_submission(tmp_path), new_submission(tmp_path)
    assert [each.path.name for each in submissions(tmp_path)] == ["0001", "0002"]
    first.sent("12")
    assert (first.job, second.job) == ("12", None)
    [attempt] = attempts(3)
    second.note(attempt)
    with open(second.path / "attempts.jsonl", "a") as file:
        file.write('{"job": "7", "rest')
    assert second.attempts() == [attempt]
    exclude_nodes(tmp_path, {"n1": "no\nanswer"})
    exclude_nodes(tmp_path, {"n1": "again", "n2": "slow"})
    assert bad_nodes(tmp_path) == {"n1": "no answer", "n2": "slow"}


def test_the_first_failure_in_a_log() -> None:
    log = "0: step 3\nsrun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 1\n"
    failure = first_failure(log)
    assert (str(failure), failure and failure.code) == ("rank 1 on n2: Killed", None)
    agreed = first_failure(
        "srun: error: n1: tasks 0-3: Exited with exit code 4\nsrun: error: n2: task 4: Killed"
    )
    assert agreed is not None and agreed.code == 4
    assert first_failure("0: step 3\n") is None


def test_the_message_of_a_run_that_never_began() -> None:
    assert told_error("0: step 3\n12: pretrain: error: run.dir: no\n0: pretrain: error: b\n") == "run.dir: no"
    assert told_error("0: step 3\n") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:00:00", 3600),
        ("2-12", 216_000),
        ("1-0:30", 88_200),
        ("1-01:01:01", 90_061),
    ],
)
def test_times_as_slurm_writes_them(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "-1", "1:2:3:4", "1-"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        seconds_of(text)


def test_nodes_follow_from_the_layout() -> None:
    assert tasks_of(small_config(slurm__gpus_per_node=8).slurm, 16) == Tasks(2, 8)
    assert tasks_of(small_config(slurm__gpus_per_node=8).slurm, 2) == Tasks(1, 8)
    assert tasks_of(small_config(slurm__nodes=3, slurm__tasks_per_node=2).slurm, 2).total == 6
    with pytest.raises(
        UserError, match="nearest legal: slurm.gpus_per_node 4 or 6 or 12".replace(".", r"\.")
    ):
        tasks_of(small_config(slurm__gpus_per_node=8).slurm, 12)


def test_the_warning_leaves_time_for_the_longest_save(tmp_path: Path) -> None:
    run, config = RunFolder(tmp_path), small_config()
    assert signal_seconds(config, run) == 120
    run.logs.mkdir()
    run.rank_log(0).write_text(
        "... saved /r/step-1: 1 GB in 100.00 s (10 MB/s)\n... saved /r/step-2: 1 GB in 90.0 s (1)\n"
    )
    journal = Journal(run.metrics)
    for step in range(1, 4):
        journal.append(step, {"tokens_per_second": 1.0}, when=10.0 * step)
    journal.close()
    assert step_seconds(run) == 10
    assert signal_seconds(config, run) == 330


def test_nodes_that_slurm_does_not_use() -> None:
    line = "NodeName={} Arch=x86_64 CoresPerSocket=1 CPUAlloc=0 State={} ThreadsPerCore=1 Reason=State=DOWN"
    states = {"n1": "IDLE", "n2": "DOWN+COMPLETING", "n3": "IDLE+DRAIN", "n4": "DOWN*", "n5": "MIXED"}
    assert down_nodes("\n".join(line.format(*pair) for pair in states.items())) == ["n2", "n3", "n4"]


@pytest.mark.parametrize(
    ("state", "code", "marked"),
    [("stopped", 75, True), ("finished", 0, False), ("failed", 4, False)],
)
def test_a_cancelled_run_does_not_go_on(tmp_path: Path, state: State, code: int, marked: bool) -> None:
    folder = RunFolder(tmp_path)
    folder.resolved.write_text("tracking: {enabled: false}\n")
    before = Status("id", 1, state, 5, 9, 0.0, 1.0, "stopped by SIGUSR1", code)
    write_status(folder, before)
    mark_cancelled(folder, "cancelled: stopped by SIGUSR1")
    after = read_status(folder)
    assert after is not None and not after.goes_on and after.state == state
    assert (after != before) == marked and before.goes_on == marked
    if marked:
        assert (after.exit_code, after.reason) == (130, "cancelled: stopped by SIGUSR1")
