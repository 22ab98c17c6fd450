"""Save and load on one rank and on several, sync and async; the files are what the stock library reads."""

import itertools
import json
import pickletools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrain.checkpoint import (
    LocalCoordinator,
    Saver,
    SaveReport,
    ShardedTensor,
    newest_good,
    open_checkpoint,
    room,
    verify,
)
from pretrain.checkpoint.protocol import Team
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import IntegrityError, UserError

SYNC = CheckpointConfig()
ASYNC = CheckpointConfig.model_validate({"async": True})


def one_rank(run_dir: Path, settings: CheckpointConfig = SYNC, **more: Any) -> Saver:
    return Saver(run_dir, settings, 0, 1, LocalCoordinator(), **more)


def on_ranks(
    run_dir: Path,
    pieces_of: Sequence[Sequence[ShardedTensor]],
    settings: CheckpointConfig = SYNC,
    step: int = 1,
    on_event: Callable[[int, str], None] = lambda rank, event: None,
    say: Callable[[str], None] = lambda _: None,
    timeout: float = 20,
) -> list[SaveReport | Exception | None]:
    """Save from one thread per rank, which share a coordinator; the outcome of each."""
    coordinator = LocalCoordinator()
    outcomes: list[SaveReport | Exception | None] = [None] * len(pieces_of)

    def work(rank: int) -> None:
        def event(name: str) -> None:
            on_event(rank, name)

        saver = Saver(
            run_dir, settings, rank, len(pieces_of), coordinator, on_event=event, say=say, timeout=timeout
        )
        try:
            report = saver.save(step, pieces_of[rank], {"step": step})
            outcomes[rank] = saver.close() or report
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(pieces_of))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def blank(piece: ShardedTensor) -> ShardedTensor:
    return ShardedTensor(
        piece.key, piece.global_shape, piece.offset, piece.shape, piece.flat, torch.zeros_like(piece.tensor),
        piece.group, piece.owner,
    )  # fmt: skip


@pytest.mark.parametrize("settings", [SYNC, ASYNC], ids=["sync", "async"])
def test_saves_and_loads_every_dtype_bit_for_bit(tmp_path: Path, settings: CheckpointConfig) -> None:
    torch.manual_seed(0)
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.int64, torch.uint8, torch.float64]
    tensors = {f"t{i}": (torch.randn(3, 5) * 50).abs().to(dtype) for i, dtype in enumerate(dtypes)}
    tensors |= {"scalar": torch.tensor(7.5), "empty": torch.zeros(0, 4), "flags": torch.tensor([True, False])}
    pieces = [ShardedTensor.whole(key, tensor) for key, tensor in tensors.items()]
    pieces.append(ShardedTensor.whole("optimizer.exp_avg", torch.randn(4), "optimizer"))
    config = {"config.yaml": b"run: {}\n"}
    saver = one_rank(tmp_path, settings)
    saver.save(200, pieces, {"samples": 12}, config)
    saver.close()
    assert saver.last and saver.last.ok and saver.last.path == tmp_path / "checkpoints/step-00000200"
    assert verify(saver.last.path) == []
    assert (tmp_path / "checkpoints/latest").read_text() == "step-00000200\n"
    assert saver.last.bytes == sum(f.stat().st_size for f in saver.last.path.iterdir())

    checkpoint = open_checkpoint(saver.last.path)
    assert (checkpoint.step, checkpoint.state, checkpoint.config_text) == (200, {"samples": 12}, "run: {}\n")
    assert set(checkpoint.keys("optimizer")) == {"optimizer.exp_avg"}
    for piece in pieces:
        loaded = blank(piece)
        checkpoint.load([loaded])
        assert torch.equal(loaded.tensor, piece.tensor), piece.key
        assert torch.equal(checkpoint.read(piece.key), piece.tensor)

    stock = load_file(saver.last.path / "weights-rank-0000.safetensors")
    assert {key: t.dtype for key, t in stock.items()} == {key: t.dtype for key, t in tensors.items()}
    assert all(torch.equal(stock[key], tensors[key]) for key in tensors)


def test_async_saves_what_was_there_at_the_call(tmp_path: Path) -> None:
    weight = torch.zeros(1000)
    release = threading.Event()
    saver = one_rank(tmp_path, ASYNC, on_event=lambda name: release.wait(60) and None)
    assert saver.save(1, [ShardedTensor.whole("w", weight)], {}) is None
    weight.fill_(1)  # training goes on while the thread waits
    release.set()
    report = saver.save(2, [ShardedTensor.whole("w", weight)], {})
    assert report and report.step == 1 and report.ok and report.stalled_seconds <= report.seconds + 60
    weight.fill_(2)
    saver.close()
    for step in (1, 2):
        read = open_checkpoint(tmp_path / f"checkpoints/step-{step:08d}").read("w")
        assert set(read.tolist()) == {step - 1}


def test_async_stalls_for_the_copy_alone(tmp_path: Path) -> None:
    release = threading.Event()
    saver = one_rank(tmp_path, ASYNC, on_event=lambda name: release.wait(60) and None)
    saver.save(1, [ShardedTensor.whole("w", torch.zeros(1000))], {})
    time.sleep(0.6)
    release.set()
    assert saver._pending is not None
    saver._pending._thread.join()
    time.sleep(0.6)  # after the save's end, which is no part of it
    report = saver.close()
    assert report and report.seconds - report.stalled_seconds > 0.5


grids = st.tuples(st.sampled_from([(8, 6), (12,), (4, 3, 5)]), st.integers(1, 3), st.integers(1, 3))


def grid_pieces(whole: torch.Tensor, tensor_parallel: int, data_parallel: int) -> list[list[ShardedTensor]]:
    """A weight split over dimension 0 and held by all data ranks, its moments split by range over them."""
    bounds = [whole.shape[0] * i // tensor_parallel for i in range(tensor_parallel + 1)]
    ranks = []
    for a, b in itertools.pairwise(bounds):
        box = whole[a:b]
        offset = (a, *(0 for _ in box.shape[1:]))
        cuts = [box.numel() * i // data_parallel for i in range(data_parallel + 1)]
        for data_rank, flat in enumerate(itertools.pairwise(cuts)):
            shape, part = tuple(box.shape), box.reshape(-1)[slice(*flat)]
            ranks.append(
                [
                    ShardedTensor(
                        "w", tuple(whole.shape), offset, shape, None, box.clone(), "weights", data_rank == 0
                    ),
                    ShardedTensor("m", tuple(whole.shape), offset, shape, flat, part * 2, "optimizer", True),
                ]
            )
    return ranks


@settings(max_examples=15, deadline=None)
@given(grids, grids)
def test_any_grid_loads_what_any_grid_saved(
    tmp_path_factory: pytest.TempPathFactory, saved: tuple[Any, int, int], wanted: tuple[Any, int, int]
) -> None:
    run_dir = tmp_path_factory.mktemp("grid")
    whole = torch.randn(saved[0])
    outcomes = on_ranks(run_dir, grid_pieces(whole, saved[1], saved[2]))
    assert all(isinstance(outcome, SaveReport) and outcome.ok for outcome in outcomes), outcomes
    path, passed_over = newest_good(run_dir)
    assert path and passed_over == []
    checkpoint = open_checkpoint(path)
    for pieces in grid_pieces(whole, wanted[1], wanted[2]):
        loaded = [blank(piece) for piece in pieces]
        checkpoint.load(loaded)
        assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(loaded, pieces, strict=True))


def test_partial_pieces_open_with_the_stock_library_by_name(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    on_ranks(tmp_path, grid_pieces(whole, 2, 2))
    folder = tmp_path / "checkpoints/step-00000001"
    with safe_open(folder / "weights-rank-0002.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w[2:4, 0:6]"), whole[2:4])
    with safe_open(folder / "optimizer-rank-0003.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("m[2:4, 0:6] elements 6:12"), whole[3] * 2)
    assert not (folder / "weights-rank-0001.safetensors").exists()


@pytest.mark.parametrize("fault", ["hole", "overlap", "shape", "dtype"])
def test_pieces_that_do_not_tile_are_refused_on_every_rank(tmp_path: Path, fault: str) -> None:
    ranks = grid_pieces(torch.randn(8, 6), 2, 1)
    weight = ranks[1][0]
    changed = {
        "hole": [],
        "overlap": [weight, ShardedTensor.whole("w", torch.zeros(8, 6))],
        "shape": [ShardedTensor("w", (9, 6), (4, 0), (5, 6), None, torch.zeros(5, 6), "weights", True)],
        "dtype": [
            ShardedTensor("w", (8, 6), (4, 0), (4, 6), None, torch.zeros(4, 6).bfloat16(), "weights", True)
        ],
    }[fault]
    ranks[1] = [*changed, ranks[1][1]]
    outcomes = on_ranks(tmp_path, ranks)
    for outcome in outcomes:
        assert isinstance(outcome, IntegrityError) and "w" in str(outcome), outcome
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_load_refuses_another_model(tmp_path: Path) -> None:
    on_ranks(
        tmp_path,
        [
            [
                ShardedTensor.whole("layer.weight", torch.zeros(4, 8)),
                ShardedTensor.whole("bias", torch.zeros(4)),
            ]
        ],
    )
    checkpoint = open_checkpoint(tmp_path / "checkpoints/step-00000001")
    with pytest.raises(UserError, match=r"no tensor layer\.weigth.*\[4, 8\] F32.*nearest.*layer\.weight"):
        checkpoint.load([ShardedTensor.whole("layer.weigth", torch.zeros(4, 8))])
    with pytest.raises(
        UserError, match=r"layer\.weight is \[4, 8\] F32.*\[4, 9\] F32 in the model: the shape"
    ):
        checkpoint.load([ShardedTensor.whole("layer.weight", torch.zeros(4, 9))])
    with pytest.raises(UserError, match=r"layer\.weight is \[4, 8\] F32.*BF16 in the model: the dtype"):
        checkpoint.load([ShardedTensor.whole("layer.weight", torch.zeros(4, 8).bfloat16())])
    with pytest.raises(UserError, match=r"1 tensor that the model has not: bias \[4\] F32"):
        checkpoint.require_all_read(["layer.weight"])
    checkpoint.require_all_read(["layer.weight", "bias"], "weights")


def test_a_refused_load_copies_nothing(tmp_path: Path) -> None:
    on_ranks(tmp_path, [[ShardedTensor.whole("a", torch.ones(4)), ShardedTensor.whole("b", torch.ones(4))]])
    target = torch.zeros(4)
    with pytest.raises(UserError):
        open_checkpoint(tmp_path / "checkpoints/step-00000001").load(
            [ShardedTensor.whole("a", target), ShardedTensor.whole("b", torch.zeros(5))]
        )
    assert not target.any()


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    saver = one_rank(tmp_path)
    pieces = [ShardedTensor.whole("w", torch.randn(9)), ShardedTensor.whole("m", torch.randn(9), "optimizer")]
    saver.save(1, pieces, {"a": 1}, {"tokenizer": tokenizer, "config.yaml": b"a: 1\n"})
    folder = tmp_path / "checkpoints/step-00000001"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix() for path in files} == {
        "weights-rank-0000.safetensors", "optimizer-rank-0000.safetensors", "tokenizer/tokenizer.json",
        "config.yaml", "index.json", "state.json", "manifest.json",
    }  # fmt: skip
    for path in files:
        assert not path.read_bytes().startswith(b"PK")
        with pytest.raises(Exception):  # noqa: B017 (pickletools raises many kinds)
            pickletools.dis(path.read_bytes(), out=open("/dev/null", "w"))  # noqa: SIM115
    assert json.loads((folder / "state.json").read_text()) == {"a": 1}


def test_the_same_save_has_the_same_fingerprint_and_another_has_not(tmp_path: Path) -> None:
    prints = []
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        one_rank(tmp_path / name).save(3, [ShardedTensor.whole("w", torch.full((5,), value))], {})
        prints.append(open_checkpoint(tmp_path / name / "checkpoints/step-00000003").fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "index.json", "x.safetensors", ""])
def test_a_file_that_has_no_place_in_a_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot store"):
        one_rank(tmp_path).save(1, [ShardedTensor.whole("w", torch.zeros(2))], {}, {name: b""})


def test_a_rank_that_does_not_answer_is_named(tmp_path: Path) -> None:
    saver = Saver(tmp_path, SYNC, 0, 2, LocalCoordinator(), timeout=0.2)
    with pytest.raises(UserError, match=r"need/1 within 0\.2 s"):
        saver.save(1, [ShardedTensor.whole("w", torch.zeros(2))], {})


def test_a_defect_on_one_rank_stops_all_ranks(tmp_path: Path) -> None:
    def event(rank: int, name: str) -> None:
        if rank == 1:
            raise KeyError("boom")

    outcomes = on_ranks(tmp_path, grid_pieces(torch.randn(4, 6), 2, 1), on_event=event)
    assert all(isinstance(o, UserError) and "rank 1: KeyError: 'boom'" in str(o) for o in outcomes), outcomes


def test_the_coordinator_keeps_no_message_of_old_saves(tmp_path: Path) -> None:
    coordinator = LocalCoordinator()
    saver = Saver(tmp_path, SYNC, 0, 1, coordinator)
    for step in range(1, 8):
        saver.save(step, [ShardedTensor.whole("w", torch.zeros(2))], {})
    assert len(coordinator._values) <= 4


def test_copies_from_a_gpu_take_memory_in_powers_of_two() -> None:
    with FakeTensorMode():
        weights = torch.empty(300, device="cuda")
    pieces = [ShardedTensor.whole("w", weights), ShardedTensor.whole("b", torch.empty(300))]
    team = Team(0, 1, LocalCoordinator(), 1, "x")
    with mock.patch.object(room, "available_memory", lambda: 3000):
        assert "3.25 kB of copies for 3.00 kB of free memory" in room.missing_room(pieces, team)


@pytest.mark.parametrize("available", [1500, 100, None])
def test_copies_that_do_not_fit_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int | None
) -> None:
    """All ranks save at once then, and the log says why."""
    monkeypatch.setattr(room, "available_memory", lambda: available)
    said: list[str] = []
    tensors = [torch.ones(200), torch.ones(100)]
    pieces = [[ShardedTensor.whole(f"t{rank}", tensor)] for rank, tensor in enumerate(tensors)]
    outcomes = on_ranks(tmp_path, pieces, ASYNC, say=said.append)
    assert all(isinstance(outcome, SaveReport) and outcome.ok for outcome in outcomes)
    told = [line for line in said if "checkpoint.async has no effect" in line]
    if available == 100:
        assert "1.20 kB of copies for 100 B of free memory on " in told[0]
        assert {o.stalled_seconds == o.seconds for o in outcomes if isinstance(o, SaveReport)} == {True}
    else:
        assert told == []
    assert verify(tmp_path / "checkpoints/step-00000001") == []
