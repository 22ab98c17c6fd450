"""A journal that was emptied, cut off or copied in part is told from one whose last lines a crash took."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import config_for, metrics_of, open_run

from pretrain.errors import IntegrityError, UserError
from pretrain.run.folder import RunFolder
from pretrain.run.status import actual_status, read_status
from pretrain.tracking.compare import compare_command
from pretrain.tracking.journal import encode, read
from pretrain.tracking.reach import gap, last_step
from pretrain.tracking.sync import sync_command
from slurm.status import status_command

STEPS = 12


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of 12 steps, with a validation after step 6."""
    with open_run(config_for(tmp_path / "run", None, steps=STEPS, enabled=False)) as begun:
        begun.begin(0)
        for step in range(1, STEPS + 1):
            begun.log_step(step, metrics_of(step))
            if step == 6:
                begun.log_validation(step, {"validation_loss": 2.0})
    return begun.folder


def without(*numbers: int) -> Callable[[list[bytes]], list[bytes]]:
    """Leaves out lines by their numbers, from 1. Line 7 is the validation after step 6."""
    return lambda lines: [line for number, line in enumerate(lines, 1) if number not in numbers]


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "emptied": (lambda _: [], "there is no line in it"),
    "cut off": (lambda lines: lines[:6], "it ends with step 6"),
    "torn at its end": (lambda lines: [*lines[:-1], lines[-1][:20]], "it ends with step 11"),
    "without its beginning": (without(1, 2, 3), "there is no line of step 1, the next is of step 4"),
    "with a hole": (without(9), "there is no line of step 8, the next is of step 9"),
    "with a line twice": (lambda lines: lines + lines[4:5], "a line of step 5 follows one of step 12"),
}


@pytest.mark.parametrize(("damage", "what"), DAMAGE.values(), ids=DAMAGE)
def test_a_journal_that_lost_lines_is_refused(
    run: RunFolder, damage: Callable[[list[bytes]], list[bytes]], what: str
) -> None:
    run.metrics.write_bytes(b"".join(damage(run.metrics.read_bytes().splitlines(keepends=True))))
    before = run.metrics.read_bytes(), run.status.read_bytes()
    config = config_for(run.path, None, steps=STEPS + 1, enabled=False)
    told = f"{run.metrics}: lines are gone: {what}, and "
    with pytest.raises(IntegrityError) as caught, open_run(config) as again:
        again.begin(STEPS)
    assert str(caught.value).startswith(
        f"{told}the checkpoint to go on from is of step 12; give the file back"
    )
    for command in (lambda: compare_command([str(run.path)], None), lambda: sync_command([str(run.path)])):
        with pytest.raises(IntegrityError) as caught:
            command()
        assert str(caught.value).startswith(f"{told}status.json says that step 12 was done")
    assert (run.metrics.read_bytes(), run.status.read_bytes()) == before
    assert not run.database.exists()


@pytest.mark.parametrize("left", [0, 6])
def test_status_says_all_it_knows_and_then_what_is_lost(
    run: RunFolder, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    status_command(str(run.path))
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[:left]))
    with pytest.raises(IntegrityError, match="says that step 12 was done"):
        status_command(str(run.path))
    assert "finished" in capsys.readouterr().out


def test_a_crash_may_take_the_lines_after_the_checkpoint(run: RunFolder) -> None:
    """With a checkpoint of step 9 and lines up to 10 of 12, one of them torn, the run goes on from 9."""
    status = json.loads(run.status.read_text()) | {"state": "running", "step": 0}
    run.status.write_text(json.dumps(status))  # as a job that was killed leaves it
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[:11]) + lines[11][:30])
    compare_command([str(run.path)], None)
    with open_run(config_for(run.path, None, steps=STEPS, enabled=False)) as again:
        again.begin(9)
        for step in range(10, STEPS + 1):
            again.log_step(step, metrics_of(step))
    assert [entry["step"] for entry in read(run.metrics)] == [*range(1, 7), *range(6, STEPS + 1)]
    compare_command([str(run.path)], None)


def test_who_deletes_the_journal_begins_it_anew(run: RunFolder) -> None:
    run.metrics.unlink()
    with pytest.raises(IntegrityError, match="there is no such file, and "):
        compare_command([str(run.path)], None)
    config = config_for(run.path, None, steps=STEPS + 2, enabled=False)
    with open_run(config) as again:
        again.begin(STEPS)
        again.log_step(STEPS + 1, metrics_of(STEPS + 1))
    assert "metrics.jsonl is gone: the curves begin anew at step 13" in run.rank_log(0).read_text()
    assert [entry["step"] for entry in read(run.metrics)] == [12, 13]
    compare_command([str(run.path)], None)
    with open_run(config) as again:  # and a second time
        again.begin(STEPS + 1)
        again.log_step(STEPS + 2, metrics_of(STEPS + 2))
    assert [entry["step"] for entry in read(run.metrics)] == [12, 13, 14]


def test_a_run_that_has_not_begun_needs_no_journal(run: RunFolder) -> None:
    run.metrics.unlink()
    status = json.loads(run.status.read_text()) | {"step": 0, "steps": 0}
    run.status.write_text(json.dumps(status))  # as `pretrain import` writes it
    compare_command([str(run.path)], None)
    assert last_step(run.metrics) == 0 and gap([], 0) is None


def test_one_damaged_run_of_several_gives_the_code_of_damage(run: RunFolder, tmp_path: Path) -> None:
    run.metrics.write_bytes(b"")
    with open_run(config_for(tmp_path / "other", None, steps=1, enabled=False)):
        pass  # never begun, which is no damage: code 2
    with pytest.raises(UserError) as caught:
        sync_command([str(tmp_path / "other"), str(run.path)])
    assert caught.value.exit_code == 3 and "has not started yet" in str(caught.value)


def test_the_end_of_a_long_journal_is_enough_for_status(run: RunFolder) -> None:
    long = b"".join(encode({"step": step, "time": 1.0, "loss": 1.0}) for step in range(1, 5001))
    run.metrics.write_bytes(long)
    assert len(long) > 1 << 16 and last_step(run.metrics) == 5000
    found = read_status(run)
    assert found is not None and actual_status(run) == found


def test_a_status_never_says_more_than_the_journal(tmp_path: Path) -> None:
    """Lines that a full disk did not take are lost with the job; its status tells the steps before them."""
    with pytest.raises(UserError), open_run(config_for(tmp_path / "run", None, enabled=False)) as begun:
        begun.begin(0)
        for step in range(1, 8):
            begun.log_step(step, metrics_of(step))
        lines = begun.folder.metrics.read_bytes().splitlines(keepends=True)
        os.truncate(begun.folder.metrics, sum(map(len, lines[:5])))
        raise UserError("no space is left")
    status = read_status(begun.folder)
    assert status is not None and (status.state, status.step) == ("failed", 5)
    compare_command([str(begun.folder.path)], None)
