"""`kill -9` at each point of a save and at random moments: nothing good is lost, nothing is left over."""

import random
import time
from pathlib import Path

import pytest
from saving import Plan, Ranks, assert_holds, run_plan

from pretrain.checkpoint import Retention, clean, newest_good, trim

pytestmark = pytest.mark.slow

# Event, and the step that a resume must find when step 30 was being saved after 10 and 20.
KILLS = {
    "before-files": 20,
    "between-files": 20,
    "after-files": 20,
    "before-manifest": 20,
    "before-rename": 20,
    "before-latest": 30,
    "during-delete": 30,
}


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def step_dir(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def check_resume(run_dir: Path, expected: int, world_size: int) -> None:
    """What a killed run left is put right; the run goes on and retention holds."""
    found, _ = newest_good(run_dir)
    assert found == step_dir(run_dir, expected)
    clean(run_dir)
    assert not [name for name in names(run_dir) if name.startswith(".")]
    found, passed_over = newest_good(run_dir)
    assert found == step_dir(run_dir, expected) and passed_over == []
    assert_holds(found, expected)
    outcomes = run_plan(Plan(run_dir, (expected + 10, expected + 20), world_size))
    assert all(ok for ok, _, _ in outcomes.values()), outcomes
    assert names(run_dir) == ["latest", *(f"step-{expected + more:08d}" for more in (10, 20))]
    assert (run_dir / "checkpoints/latest").read_text().strip() == f"step-{expected + 20:08d}"


@pytest.mark.parametrize("async_", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("event", "world_size", "rank"),
    [(event, 1, 0) for event in KILLS]
    + [("between-files", 2, 1), ("after-files", 2, 1), ("before-rename", 2, 0)],
)
def test_kill_at_event(tmp_path: Path, event: str, world_size: int, rank: int, async_: bool) -> None:
    settings = {"async": async_}
    Ranks(Plan(tmp_path, (10, 20, 30), world_size, settings, event, 30, rank)).wait_for_kill()
    check_resume(tmp_path, KILLS[event], world_size)


def test_kill_while_a_damaged_step_is_replaced(tmp_path: Path) -> None:
    run_plan(Plan(tmp_path, (10, 20)))
    (step_dir(tmp_path, 20) / "state.json").unlink()
    Ranks(Plan(tmp_path, (20,), kill_at="during-replace")).wait_for_kill()
    assert clean(tmp_path)
    found, passed_over = newest_good(tmp_path)
    assert found == step_dir(tmp_path, 10)
    assert [reason for _, reason in passed_over] == ["state.json: missing; 16 bytes were written"]
    run_plan(Plan(tmp_path, (20,)))
    assert_holds(step_dir(tmp_path, 20), 20)
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000020"]


def test_kill_while_the_only_checkpoint_is_replaced(tmp_path: Path) -> None:
    run_plan(Plan(tmp_path, (20,)))
    Ranks(Plan(tmp_path, (20,), kill_at="during-replace")).wait_for_kill()
    assert any("restored" in message for message in clean(tmp_path))
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert_holds(found, 20)


@pytest.mark.parametrize("async_", [False, True], ids=["sync", "async"])
def test_random_kills_lose_nothing(tmp_path: Path, async_: bool) -> None:
    """Two ranks save step after step and are killed at random, ten times over; the run only ever goes
    forward."""
    moments = random.Random(17 + async_)
    reached = 0
    for _ in range(10):
        steps = tuple(range(reached + 1, reached + 1000))
        ranks = Ranks(Plan(tmp_path, steps, 2, {"async": async_, "keep_last": 2}))
        deadline = time.monotonic() + 30
        while not step_dir(tmp_path, reached + 1).exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.05))
        ranks.kill()
        clean(tmp_path)
        found, passed_over = newest_good(tmp_path)
        assert found is not None and passed_over == []
        assert not [name for name in names(tmp_path) if name.startswith(".")]
        step = int(found.name.removeprefix("step-"))
        assert len(names(tmp_path)) <= 1 + 3, "latest, keep_last, and one that a kill kept from being deleted"
        trim(tmp_path, step, Retention(keep_last=2))
        assert len(names(tmp_path)) <= 1 + 2
        assert step > reached
        assert_holds(found, step)
        reached = step
