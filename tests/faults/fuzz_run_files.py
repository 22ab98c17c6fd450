"""Readers of what a run, a checkpoint and a Slurm job leave on the disk, each with a good folder."""

import json
import struct
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from fuzzing import BOTH, Reader, damaged_bytes, damaged_json
from small_run import config_for, metrics_of, open_run

from data_tools.typed import names, natural
from evals.images.features import _read as read_features
from evals.images.features import _write as write_features
from evals.result import Result
from evals.stored_results import _file as file_of
from evals.stored_results import find
from evals.suite import SuiteEntry
from pretrain.checkpoint import LocalCoordinator, Saver, ShardedTensor, newest_good, open_checkpoint, verify
from pretrain.checkpoint.files import file_record, walk
from pretrain.checkpoint.manifest import dump_manifest
from pretrain.checkpoint.tensors import TensorFile, write_tensors
from pretrain.config.sections import CheckpointConfig
from pretrain.errors import IntegrityError
from pretrain.gan.collapse import CollapseHistory
from pretrain.health.heartbeat import HeartbeatWriter, is_dead, read_heartbeat
from pretrain.health.phase_timer import Moment, Phase
from pretrain.health.spikes import SkippedRange, SpikeHistory
from pretrain.health.stop import StopFiles, StopReason
from pretrain.hf.shards import INDEX as HF_INDEX
from pretrain.hf.shards import TensorFolder
from pretrain.run.folder import RunFolder
from pretrain.run.lock import refusal
from pretrain.run.status import actual_status
from pretrain.tracking import journal
from pretrain.tracking.compare import _read as read_run
from pretrain.tracking.compare import _rows as rows_of
from pretrain.tracking.journal import Follower
from pretrain.tracking.names import of_journal
from pretrain.tracking.reach import require_checkpoints_lines
from pretrain.tracking.record import Sent, choose_uri, page_of, read_record, write_sent
from pretrain.tracking.send import MLFLOW_STATUS, _tags, points
from slurm.findings import RankFinding, judge_nodes, write_finding
from slurm.measured import last_entry, step_seconds
from slurm.submission import Attempt, Submission, bad_nodes, exclude_nodes
from slurm.verdict import before

LARGE = 1 << 53
STEP = "checkpoints/step-00000003"


def run_folder(good: Path) -> Reader:
    """Journal, evaluations, status and configs, as `compare`, `sync` and `status` read them."""
    with open_run(config_for(good, None, steps=4, enabled=False)) as run:
        run.begin(0, {"layout": "TP2"})
        for step in range(1, 5):
            run.log_step(step, metrics_of(step) | {"tokens_per_second": 5.0})
        run.log_validation(4, {"validation_loss": float("inf")})
    evaluations = journal.Journal(run.folder.evaluations)
    evaluations.append(4, {"accuracy": 0.5})
    evaluations.close()
    server = Sent(
        "http://host", "e", "7", "abc", 5, 6, {"loss.png": "1-2"}, "finished (job 1)", "finished (job 1)"
    )
    write_sent(run.folder, server)

    def read(folder: Path) -> None:
        run = RunFolder(folder)
        for path in (run.metrics, run.evaluations):
            follower, sent = Follower(path), 0
            while entries := follower.read():
                for name, value, when, step in points(entries, of_journal):
                    assert isinstance(name, str) and isinstance(value, float)
                    assert 0 <= step < LARGE and 0 <= when < 1000 * LARGE
                sent += len(entries)
            follower.close()
            assert sent <= 8
        last, seconds = last_entry(run), step_seconds(run)
        assert (last is None or last["step"] >= 0) and (seconds is None or isinstance(seconds, float))
        record = read_record(run)
        choose_uri(None, {}, record)
        for each in record.servers:
            page_of(each.uri, each)
            assert each.offset >= 0
        status = actual_status(run)
        if status is not None:
            assert MLFLOW_STATUS[status.state] and min(status.step, status.steps, status.job) >= 0
            assert all(isinstance(value, str) for value in _tags(status).values())
            int(status.time * 1000)
        rows_of([read_run(str(folder))])
        entries = journal.read(run.metrics)
        assert status is None or not entries or entries[-1]["step"] >= status.step
        require_checkpoints_lines(run.metrics, 4)
        winding = journal.Journal(run.metrics)
        winding.truncate_after(2)
        winding.close()
        assert all(entry["step"] <= 2 for entry in journal.read(run.metrics))

    files = ("metrics.jsonl", "evaluations.jsonl", "status.json", "tracking.json", "config.resolved.yaml")
    return Reader("run folder", files, read, BOTH, anew=True)


def lock_and_health(good: Path) -> Reader:
    """What ranks and jobs say of themselves while they run; whoever reads that must not fail by it."""
    with open_run(config_for(good / "run", None, enabled=False)) as run:
        lock = run.folder.lock.read_bytes()
    (good / "lock").write_bytes(lock)
    HeartbeatWriter(good, "j", 0).beat(Moment(3, Phase.DATA, 0, 1.0), 9.0)
    board = StopFiles(good, "j")
    board.post(StopReason(4, "a rank hangs", 1, 0, True))
    board.ask_to_stop(15)

    def read(folder: Path) -> None:
        assert refusal(folder / "lock").isprintable()
        beat = read_heartbeat(folder, 0)
        if beat is not None:
            assert beat.name and beat.place and beat.progress >= (0, 0, 0)
            is_dead(beat), beat.overdue, beat.ended
        verdict = StopFiles(folder, "j").verdict()
        assert verdict is None or (0 <= verdict.code < 256 and isinstance(verdict.message, str))
        assert 0 <= StopFiles(folder, "j").asked_to_stop() <= 64

    return Reader("lock and health", ("lock", "rank-0000.json", "verdict-j.json", "stop-j"), read, BOTH)


def _save(run_dir: Path) -> None:
    weights = torch.arange(12.0).view(3, 4)
    pieces = [
        ShardedTensor("w", (3, 4), (0, 0), (2, 4), None, weights[:2].clone(), "weights", True),
        ShardedTensor("w", (3, 4), (2, 0), (1, 4), (0, 4), weights[2].clone(), "weights", True),
        ShardedTensor.whole("m", torch.ones(5, dtype=torch.bfloat16), "optimizer"),
    ]
    memory = SpikeHistory((2.0, 1.5), 1, (SkippedRange(2, 16, 24),), 1)
    state = {
        "step": 3,
        "samples": 24,
        "tokens": 96,
        "updates": 3,
        "vocab_size": 257,
        "to_validate": False,
        "data_fingerprint": "ab",
        "layout": "TP1",
        "run": "cd",
        "classes": ["a", "b"],
        "health": memory.to_json(),
        "game": CollapseHistory(0.5, 7).to_json(),
    }
    files: dict[str, bytes | Path] = {"config.yaml": b"run: {}\n"}
    Saver(run_dir, CheckpointConfig(), 0, 1, LocalCoordinator()).save(3, pieces, state, files)


def _read_checkpoint(folder: Path) -> None:
    """As `train` takes one up: it verifies, or it is not touched."""
    if (path := newest_good(folder)[0]) is None:
        raise IntegrityError(f"{folder}: none")
    assert verify(path) == []
    checkpoint = open_checkpoint(path)
    assert checkpoint.step == checkpoint.state.get("step", 3) == 3
    for key in ("updates", "vocab_size"):
        assert 0 <= checkpoint.part(key, natural) < LARGE
    health = checkpoint.part("health", SpikeHistory.from_json)
    places = [place for each in health.skipped for place in (each.first, each.stop)]
    assert places == sorted(places) and min((*places, health.rollbacks, health.skips_in_a_row)) >= 0
    assert all(abs(loss) < float("inf") for loss in health.losses)
    game = checkpoint.part("game", CollapseHistory.from_json)
    assert game.steps >= 0 and abs(game.average) < float("inf")
    checkpoint.part("classes", names)
    for key in checkpoint.index:
        assert checkpoint.read(key).shape == checkpoint.index[key].shape


def checkpoint(good: Path) -> Reader:
    """Damaged at random: nothing at all is let through."""
    _save(good)

    def read(folder: Path) -> None:
        _read_checkpoint(folder)
        for path in (folder / STEP).iterdir():
            assert path.read_bytes() == (good / STEP / path.name).read_bytes(), f"{path} was let through"

    inner = sorted(path.name for path in (good / STEP).iterdir())
    return Reader("checkpoint", tuple(f"{STEP}/{name}" for name in inner), read)


def forged_checkpoint(good: Path) -> Reader:
    """With checksums that fit: what is let through is a checkpoint."""
    _save(good)

    def seal(folder: Path) -> None:
        files = {
            path.relative_to(folder / STEP).as_posix(): file_record(path)
            for path in walk(folder / STEP)
            if path.name != "manifest.json"
        }
        (folder / STEP / "manifest.json").write_bytes(dump_manifest(3, files))

    tensors = sorted(path.name for path in (good / STEP).glob("*.safetensors"))
    files = tuple(f"{STEP}/{name}" for name in ("index.json", "state.json", *tensors))
    return Reader("forged checkpoint", files, _read_checkpoint, (damaged_header,), seal)


def manifest(good: Path) -> Reader:
    """Its numbers and names, with its own checksum right."""
    _save(good)

    def seal(folder: Path) -> None:
        import hashlib

        path = folder / STEP / "manifest.json"
        try:
            content = json.loads(path.read_bytes())
            content.pop("sha256", None)
            text = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
            content["sha256"] = hashlib.sha256(text).hexdigest()
            path.write_bytes(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
        except Exception:  # what it damaged is no manifest any more
            return

    return Reader("manifest", (f"{STEP}/manifest.json",), _read_checkpoint, (damaged_json,), seal)


def damaged_header(random: Random, data: bytes) -> bytes:
    """A JSON file, or a safetensors file in its header."""
    if data[8:9] != b"{":
        return damaged_json(random, data)
    size = struct.unpack("<Q", data[:8])[0]
    header = damaged_json(random, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def tensor_folder(good: Path) -> Reader:
    """A Hugging Face folder of two files of tensors and their index."""
    good.mkdir()
    parts = {
        "model-1.safetensors": [("a", torch.ones(2, 3)), ("b", torch.ones(0, 2))],
        "model-2.safetensors": [("c", torch.arange(4)), ("d", torch.ones(3, dtype=torch.bfloat16))],
    }
    for name, tensors in parts.items():
        write_tensors(good / name, tensors)
    where = {key: name for name, tensors in parts.items() for key, _ in tensors}
    (good / HF_INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))

    def read(folder: Path) -> None:
        found = TensorFolder(folder)
        for name, tensor in found.tensors.items():
            assert found.read(name).shape == tensor.shape
        for name in parts:
            file = TensorFile(folder / name)
            spans = sorted((entry.start, entry.stop) for entry in file.entries.values())
            held = sum(stop - start for start, stop in spans)
            assert held == sum(t.numel() * t.element_size() for n in file.entries for t in [file.tensor(n)])
            assert all(one[1] == two[0] for one, two in pairwise(spans)), "hole, overlap"

    return Reader("tensor folder", (*parts, HF_INDEX), read, (damaged_header, damaged_bytes))


def slurm_job(good: Path) -> Reader:
    """What is kept of a submission."""
    submission = Submission(good / "slurm/0001")
    submission.path.mkdir(parents=True)
    submission.sent("123")
    submission.note(Attempt("123", 0, ("n1", "n2"), 0, 100.0))
    submission.note(Attempt("123", 0, ("n1", "n2"), 0, 100.0, 200.0, "train", 75, "requeued"))
    exclude_nodes(good, {"n1": "slow"})
    for rank, host in enumerate(("n1", "n2")):
        versions = {"torch": "2"}
        finding = RankFinding(rank, host, "cpu", 0, 10**9, 10**9, versions, 0.1, 1e9, 1e9)
        write_finding(submission.preflight, finding)

    def read(folder: Path) -> None:
        submission = Submission(folder / "slurm/0001")
        assert submission.job is None or isinstance(submission.job, str)
        attempts = submission.attempts()
        assert all(each.step >= 0 and all(isinstance(node, str) for node in each.nodes) for each in attempts)
        if attempts:
            before(attempts, 3)
        assert all(isinstance(reason, str) for reason in bad_nodes(folder).values())
        assert judge_nodes(submission.preflight, ["n1", "n2"]).lines

    names = ("job.json", "attempts.jsonl", "preflight/rank-0000.json", "preflight/rank-0001.json")
    files = (*(f"slurm/0001/{name}" for name in names), "slurm/exclude")
    return Reader("slurm", files, read, BOTH)


def evaluation(good: Path) -> Reader:
    """Kept results and kept features: what is not what was written is computed again."""
    import numpy as np

    entry = SuiteEntry.model_validate({"task": "perplexity"})
    metrics = {"token_perplexity": float("inf"), "tokens": 7}
    path = file_of(RunFolder(good), entry, 3, "key")
    path.parent.mkdir(parents=True)
    path.write_text(Result("c", 3, metrics, {"definitions": {}}).to_json())
    write_features(good, "real", {}, np.ones((2, 3), np.float32))

    def read(folder: Path) -> None:
        found = find(RunFolder(folder), entry, 3, "key")
        if found is not None:
            assert found.step == 3 and all(type(value) in (int, float) for value in found.metrics.values())
            json.loads(found.to_json(), parse_constant=lambda name: 1 / 0)
        features = read_features(folder, "real", (2, 3))
        assert features is None or features.shape == (2, 3)

    files = (str(path.relative_to(good)), "real.json", "real.f32")
    return Reader("evaluation", files, read, BOTH)


RUN_READERS = (
    run_folder,
    lock_and_health,
    checkpoint,
    forged_checkpoint,
    manifest,
    tensor_folder,
    slurm_job,
    evaluation,
)
