"""Every kind of damage to every kind of file is found, named and passed over; retention and cleaning hold."""

import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint import (
    LocalCoordinator,
    Retention,
    Saver,
    ShardedTensor,
    SharedCheck,
    clean,
    find,
    find_good,
    give_up_after,
    newest_good,
    open_checkpoint,
    resolve,
    trim,
    verify,
)
from pretrain.checkpoint.files import FileRecord, file_record
from pretrain.checkpoint.manifest import dump_manifest, parse_manifest
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import IntegrityError, UserError

FILES = (
    "weights-rank-0000.safetensors",
    "optimizer-rank-0000.safetensors",
    "index.json",
    "state.json",
    "config.yaml",
    "tokenizer/tokenizer.json",
    "manifest.json",
)


def save_steps(
    run_dir: Path, *steps: int, value: float = 0.0, keep_last: int = 99, since: int | None = None, **keep: int
) -> Saver:
    settings = CheckpointConfig(keep_last=keep_last, keep_every=keep.get("keep_every"))
    saver = Saver(run_dir, settings, 0, 1, LocalCoordinator())
    for step in steps:
        pieces = [
            ShardedTensor.whole("w", torch.full((50,), value + step)),
            ShardedTensor.whole("m", torch.full((50,), value - step), "optimizer"),
        ]
        files: dict[str, bytes | Path] = {"config.yaml": b"run: {}\n", "tokenizer/tokenizer.json": b"{}"}
        saver.save(step, pieces, {"step": step, "suspect_since": since}, files)
    return saver


def step_dir(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << random.Random(at).randrange(8)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def to_symlink(path: Path) -> None:
    moved = next(parent for parent in path.parents if parent.name == "checkpoints").parent / "elsewhere"
    shutil.move(path, moved)
    path.symlink_to(moved)


def to_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": list(range(100))}))


def to_torch_archive(path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, path)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "deleted": (Path.unlink, "missing"),
    "truncated": (truncate, "bytes|JSON|manifest"),
    "emptied": (lambda path: os.truncate(path, 0), "0 bytes|manifest"),
    "flipped": (lambda path: flip(path, path.stat().st_size // 3), "checksum|manifest"),
    "symlink": (to_symlink, "symlink"),
    "pickle": (to_pickle, "a pickle|not a manifest"),
    "torch.save": (to_torch_archive, "torch.save|not a manifest"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    save_steps(tmp_path, 100, 200)
    act, expected = DAMAGE[damage]
    bad = step_dir(tmp_path, 200)
    act(bad / name)
    faults = verify(bad)
    assert any(fault.file == name for fault in faults), faults
    assert any(word in str(faults[0]) for word in expected.split("|")), faults
    found, passed_over = newest_good(tmp_path)
    assert found == step_dir(tmp_path, 100)
    assert [path for path, _ in passed_over] == [bad]
    assert name in passed_over[0][1]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    save_steps(tmp_path, 1)
    path = step_dir(tmp_path, 1) / name
    good = path.read_bytes()
    for at in random.Random(0).sample(range(len(good)), min(len(good), 60)):
        flip(path, at)
        assert verify(step_dir(tmp_path, 1)), f"byte {at} of {name}"
        path.write_bytes(good)
    assert verify(step_dir(tmp_path, 1)) == []


def test_an_unexpected_file_is_named_and_a_pickle_as_such(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    (step_dir(tmp_path, 1) / "extra.pt").write_bytes(pickle.dumps([1]))
    (fault,) = verify(step_dir(tmp_path, 1))
    assert fault.file == "extra.pt" and "not part of the checkpoint; it is a pickle" in fault.what


@pytest.mark.parametrize(
    "name", ["../../outside", "/etc/passwd", "a\\b", "a/../../b", "manifest.json", "./a"]
)
def test_a_manifest_cannot_reach_outside(name: str) -> None:
    with pytest.raises(ValueError, match="lists"):
        parse_manifest(dump_manifest(1, {name: FileRecord(0, "")}))


def test_a_renamed_checkpoint_is_not_another_step(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    step_dir(tmp_path, 1).rename(step_dir(tmp_path, 2))
    assert "was written as step-00000001" in str(verify(step_dir(tmp_path, 2))[0])


def test_a_foreign_checkpoint_with_sound_checksums_is_refused(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    folder = step_dir(tmp_path, 1)
    index = json.loads((folder / "index.json").read_text())
    index["tensors"]["w"]["pieces"][0]["flat"] = [0, 25]
    (folder / "index.json").write_text(json.dumps(index))
    files = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            files[path.relative_to(folder).as_posix()] = file_record(path)
    (folder / "manifest.json").write_bytes(dump_manifest(1, files))
    assert "w [50] F32: box [0:50]: elements 25:50 are in no shard" in str(verify(folder)[0])


def test_no_good_checkpoint_is_an_error_not_step_0(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(step_dir(tmp_path, step) / FILES[0])
    with pytest.raises(IntegrityError) as error:
        newest_good(tmp_path)
    assert "step-00000001: weights" in str(error.value) and "step-00000002: weights" in str(error.value)
    for step in (1, 2):
        shutil.rmtree(step_dir(tmp_path, step))
    with pytest.raises(IntegrityError, match="step-00000002: does not exist, though latest names it"):
        newest_good(tmp_path)


def test_the_first_checkpoint_may_appear_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 1)
    checkpoints, away = tmp_path / "checkpoints", tmp_path / "away"
    checkpoints.rename(away)
    checkpoints.mkdir()
    listed = find.steps_in

    def publish_after_listing(folder: Path) -> Any:
        found = listed(folder)
        checkpoints.rmdir()
        away.rename(checkpoints)
        return found

    monkeypatch.setattr(find, "steps_in", publish_after_listing)
    assert newest_good(tmp_path) == (None, [])
    monkeypatch.undo()
    assert newest_good(tmp_path)[0] == checkpoints / "step-00000001"


def test_latest_is_a_hint_only(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    (tmp_path / "checkpoints/latest").write_text("step-00000001\n")
    assert newest_good(tmp_path) == (step_dir(tmp_path, 2), [])
    (tmp_path / "checkpoints/latest").write_bytes(b"\xff\xfe\x00")
    assert newest_good(tmp_path) == (step_dir(tmp_path, 2), [])


def test_retention(tmp_path: Path) -> None:
    save_steps(tmp_path, *range(10, 101, 10), keep_last=2, keep_every=40)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (40, 80, 90, 100))]


def test_retention_does_not_count_damaged_ones(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 3)
    truncate(step_dir(tmp_path, 3) / FILES[0])
    save_steps(tmp_path, 4, keep_last=2)
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003", "step-00000004"]
    save_steps(tmp_path, 5, keep_last=2)
    assert names(tmp_path) == ["latest", "step-00000004", "step-00000005"]


def test_steps_of_a_course_that_was_given_up_go(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20, 30)
    said: list[str] = []
    saver = Saver(tmp_path, CheckpointConfig(), 0, 1, LocalCoordinator(), say=said.append)
    saver.save(15, [ShardedTensor.whole("w", torch.zeros(2))], {})
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000015"]
    assert sum("the run went on from before it" in line for line in said) == 2


def test_later_steps_stay_while_none_before_them_is_whole(tmp_path: Path) -> None:
    """Those of another course are better than none."""
    save_steps(tmp_path, 10, 20, 30)
    truncate(step_dir(tmp_path, 10) / FILES[0])
    assert give_up_after(tmp_path, 15) == []
    save_steps(tmp_path, 15)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (10, 15, 20, 30))]
    save_steps(tmp_path, 16)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (10, 15, 16))]


def test_retention_does_not_count_what_was_saved_while_updates_were_skipped(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 12, keep_last=2)
    save_steps(tmp_path, 14, 16, 18, 20, keep_last=2, since=13)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (10, 12, 20))]
    assert (tmp_path / "checkpoints/latest").read_text() == "step-00000012\n"
    assert trim(tmp_path, 12, Retention(keep_last=2)) == []
    save_steps(tmp_path, 22, keep_last=2)
    assert names(tmp_path) == ["latest", "step-00000012", "step-00000022"]
    assert (tmp_path / "checkpoints/latest").read_text() == "step-00000022\n"
    save_steps(tmp_path, 24, keep_last=1, since=23)
    assert names(tmp_path) == ["latest", "step-00000022", "step-00000024"]
    save_steps(tmp_path, 40, 44, keep_last=1, since=31, keep_every=40)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (22, 40, 44))]


def test_the_newest_good_is_from_before_updates_were_skipped(tmp_path: Path) -> None:
    """One whose very next update was skipped is taken where there is no other; last, the newest."""
    save_steps(tmp_path, 3, 4, since=3)
    save_steps(tmp_path, 8, 10, 12)
    save_steps(tmp_path, 14, since=13)
    said: list[str] = []
    assert resolve(tmp_path, said.append) == step_dir(tmp_path, 10)
    assert [line.split(":")[0] for line in said] == [f"passed over step-{step:08d}" for step in (14, 12)]
    assert resolve(step_dir(tmp_path, 14), said.append) == step_dir(tmp_path, 14)
    assert said[-1].endswith("step-00000014 was saved while updates were skipped, from step 13 on")
    for step in (10, 8):
        truncate(step_dir(tmp_path, step) / FILES[0])
    found = find_good(tmp_path)
    assert (found.path, found.suspect) == (step_dir(tmp_path, 12), step_dir(tmp_path, 14))
    truncate(step_dir(tmp_path, 12) / FILES[0])
    found = find_good(tmp_path)
    assert (found.path, found.suspect) == (step_dir(tmp_path, 14), None)
    save_steps(tmp_path, 16)
    assert newest_good(tmp_path) == (step_dir(tmp_path, 16), [])


def test_skips_that_ended_well_put_no_checkpoint_in_doubt(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2, 4, keep_every=4, since=None)
    save_steps(tmp_path, 4, keep_every=4, since=3)
    save_steps(tmp_path, 14, keep_every=4, since=13)
    assert names(tmp_path) == ["latest", *(f"step-{step:08d}" for step in (1, 2, 4, 14))]
    assert newest_good(tmp_path)[0] == step_dir(tmp_path, 2)


def test_a_doubted_checkpoint_is_better_than_none(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20)
    assert find_good(tmp_path, {20: "why"}).path == step_dir(tmp_path, 10)
    assert find_good(tmp_path, {20: "why"}).passed_over == [(step_dir(tmp_path, 20), "why")]
    shutil.rmtree(step_dir(tmp_path, 10))
    assert find_good(tmp_path, {20: "why"}).path == step_dir(tmp_path, 20)


def test_a_step_is_replaced_by_its_successor(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    truncate(step_dir(tmp_path, 2) / FILES[0])
    save_steps(tmp_path, 2, value=7)
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]
    assert verify(step_dir(tmp_path, 2)) == []
    assert open_checkpoint(step_dir(tmp_path, 2)).read("w")[0] == 9


def test_clean_removes_what_dead_runs_left_and_restores_what_was_set_aside(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / ".tmp-step-00000003-abcd").mkdir()
    (folder / ".tmp-step-00000003-abcd/weights-rank-0000.safetensors").write_bytes(b"x")
    (folder / ".tmp-latest-00ff").write_text("step")
    shutil.copytree(step_dir(tmp_path, 1), folder / ".trash-step-00000000-abcd")
    shutil.copytree(step_dir(tmp_path, 1), folder / ".old-step-00000001-abcd")
    step_dir(tmp_path, 2).rename(folder / ".old-step-00000002-abcd")
    assert newest_good(tmp_path)[0] == step_dir(tmp_path, 1)
    messages = clean(tmp_path)
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]
    assert any("restored" in message and "step-00000002" in message for message in messages)
    assert newest_good(tmp_path)[0] == step_dir(tmp_path, 2)
    assert clean(tmp_path) == [] == clean(tmp_path / "nothing")


def test_a_lone_checkpoint_that_is_set_aside_is_not_step_0(tmp_path: Path) -> None:
    save_steps(tmp_path, 2)
    step_dir(tmp_path, 2).rename(tmp_path / "checkpoints/.old-step-00000002-abcd")
    (tmp_path / "checkpoints/latest").unlink()
    with pytest.raises(IntegrityError, match="was set aside"):
        newest_good(tmp_path)


def test_resolve(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    save_steps(run_dir, 100, 200)
    said: list[str] = []
    for path in (run_dir, run_dir / "checkpoints", step_dir(run_dir, 200)):
        assert resolve(path, said.append) == step_dir(run_dir, 200)
    assert said == []
    with pytest.raises(
        UserError, match=r"step-00000190: does not exist; .* holds the steps 100, 200; nearest: .*200"
    ):
        resolve(step_dir(run_dir, 190))
    with pytest.raises(UserError, match=rf"{tmp_path}/other/run: does not exist \({tmp_path} does\)"):
        resolve(tmp_path / "other/run")
    with pytest.raises(UserError, match="no checkpoint here"):
        resolve(tmp_path)
    flip(step_dir(run_dir, 200) / FILES[0], 250)
    with pytest.raises(
        IntegrityError, match=r"damaged checkpoint:\n  weights-rank-0000\.safetensors: content"
    ):
        resolve(step_dir(run_dir, 200))
    assert resolve(run_dir, said.append) == step_dir(run_dir, 100)
    assert len(said) == 1 and said[0].startswith("passed over step-00000200: weights")


def test_a_pickle_in_a_checkpoints_place_is_named(tmp_path: Path) -> None:
    archive, plain = tmp_path / "model.pt", tmp_path / "model.pkl"
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, buffer)
    archive.write_bytes(buffer.getvalue())
    plain.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(UserError, match=r"model\.pt: a zip archive such as torch\.save writes"):
        resolve(archive)
    with pytest.raises(UserError, match=r"model\.pkl: a pickle; not loaded"):
        resolve(plain)
    place = step_dir(tmp_path, 5)
    place.parent.mkdir()
    place.write_bytes(buffer.getvalue())
    with pytest.raises(IntegrityError, match="zip archive"):
        newest_good(tmp_path)


@pytest.mark.parametrize("name", FILES[:6])
def test_ranks_read_each_file_once_and_find_what_one_finds(tmp_path: Path, name: str) -> None:
    save_steps(tmp_path, 100, 200)
    path, ranks = step_dir(tmp_path, 200), [SharedCheck(rank, 4) for rank in range(4)]
    answers: list[list[str]] = []

    def ask(text: str) -> list[str]:
        answers.append([each.work(text) for each in ranks])
        return answers[-1]

    assert verify(path, ranks[0].over(ask)) == []
    flip(path / name, 0)
    assert find_good(tmp_path, check=ranks[0].over(ask)).path == step_dir(tmp_path, 100)
    assert verify(path, ranks[0].over(ask)) == verify(path) != []
    assert len({answer for answer in answers[1] if name in answer}) == 1
    path.joinpath("manifest.json").unlink()
    assert "rank 2" in ranks[2].work(str(path))
