"""Where a step's time goes: stretches of time, shares of every step, a profile of real ranks."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
import yaml
from text_shards import build_shards
from torch.distributed import HashStore

from pretrain.distributed.world import DistContext
from pretrain.health.phase_timer import Cause, Phase, PhaseTimer, by_cause, shares
from pretrain.training.profiling.profiler import StepProfiler
from pretrain.training.profiling.timeline import PHASE, Span, seconds_by_cause

SECOND = 1e6


def span(name: str, start: float, end: float, on_device: bool = False) -> Span:
    return Span(name, start * SECOND, end * SECOND, on_device)


def test_only_communication_that_nothing_hides_counts() -> None:
    found, idle = seconds_by_cause(
        [
            span(PHASE + "data wait", 0, 1),
            span("aten::copy_", 0, 1),
            span(PHASE + "forward and backward", 1, 11),
            span("mkldnn::_linear_pointwise", 1, 4),
            span("aten::add", 2, 5),
            span("gloo:all_reduce", 4, 7),
            span("gloo:send", 6, 8),
            span(PHASE + "optimizer", 11, 13),
            span("gloo:all_gather", 11, 12),
            span(PHASE + "saving", 13, 16),
        ]
    )
    assert found == {
        Cause.COMPUTE: 7,  # 4 of operators and 3 of Python
        Cause.COMMUNICATION: 4,
        Cause.DATA_WAIT: 1,
        Cause.OPTIMIZER: 1,
        Cause.CHECKPOINT: 3,
        Cause.OTHER: 0,
    }
    assert idle == 4


def test_on_a_gpu_its_kernels_count_and_not_their_launches() -> None:
    found, idle = seconds_by_cause(
        [
            span(PHASE + "forward and backward", 0, 10),
            span("aten::mm", 0, 1),
            span("ampere_sgemm", 1, 6, on_device=True),
            span("ncclDevKernel_AllReduce", 5, 8, on_device=True),
        ]
    )
    assert (found[Cause.COMPUTE], found[Cause.COMMUNICATION], idle) == (8, 2, 3)


def test_marks_add_up_by_phase() -> None:
    pulse, heard = PhaseTimer(), []
    pulse.listen(heard.append)
    for phase in (Phase.DATA, Phase.COMPUTE, Phase.DATA):
        pulse.mark(phase)
    spent = pulse.spent()
    assert heard == [Phase.DATA, Phase.COMPUTE, Phase.DATA]
    assert set(spent) == {Phase.START, Phase.DATA, Phase.COMPUTE}
    assert pulse.spent() == {}


def test_shares_are_of_the_whole() -> None:
    phases = {Phase.COMPUTE: 6.0, Phase.REDUCTION: 2.0, Phase.AGREEMENT: 1.0, Phase.VALIDATION: 1.0}
    found = shares(by_cause(phases), "profiled_")
    assert found["profiled_compute_share"] == 0.6
    assert found["profiled_communication_share"] == 0.3
    assert found["profiled_other_share"] == 0.1
    assert shares(dict.fromkeys(Cause, 0.0)) == {}


@pytest.mark.slow
def test_a_profile_of_two_tensor_parallel_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETRAIN_CPU_PRODUCTS", "onednn")
    config = {
        "run": {"dir": str(tmp_path / "run"), "steps": 8},
        "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
        "batch": {"global_size": 4, "micro_size": 2, "sequence_length": 32},
        "parallel": {"tensor": 2},
        "optimizer": {"lr": 1e-3},
        "data": {"train": str(build_shards(tmp_path / "shards", ["some text " * 30] * 12))},
        "train": {"profile": 3},
        "checkpoint": {"every": 6},
        "tracking": {"enabled": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pretrain", "train", str(tmp_path / "config.yaml"), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        prefix = "profiled_" if "profiled_compute_share" in line else ""
        assert sum(line[f"{prefix}{cause.value}_share"] for cause in Cause) == pytest.approx(1, abs=1e-3)
    [profiled] = [line for line in lines if "profiled_compute_share" in line]
    assert profiled["step"] == 7
    # What these marks call compute is tensor-parallel communication for a large part.
    plain = [line for line in lines if line["step"] in (5, 6, 7) and "compute_share" in line]
    assert len(plain) == 3
    usual = mean(each["communication_share"] / (1 - each["checkpoint_stall_share"]) for each in plain)
    training = 1 - profiled["profiled_checkpoint_stall_share"]  # a disk may stall one step for seconds
    assert profiled["profiled_communication_share"] / training > usual
    assert profiled["profiled_checkpoint_stall_share"] > 0
    folder = tmp_path / "run/profile"
    assert "steps 5 to 7" in (folder / "steps-5-7.txt").read_text()
    assert (folder / "steps-5-7.txt").read_text() in done.stderr
    for rank in (0, 1):
        file = folder / f"steps-5-7.rank-0000{rank}.trace.json.gz"
        trace = json.loads(gzip.decompress(file.read_bytes()))
        names = {event.get("name") for event in trace["traceEvents"]}
        assert {PHASE + "optimizer", "mkldnn::_linear_pointwise", "gloo:all_reduce"} <= names


def test_a_job_with_too_few_steps_left_says_so_in_its_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps are profiled from the fifth of a job on; a job that goes on with the last ones has none."""
    for first, told in ((8, True), (4, False)):
        caplog.clear()
        profiler = StepProfiler(
            3, tmp_path, PhaseTimer(), DistContext(0, 1, 0, torch.device("cpu"), HashStore())
        )
        profiler.before(first, 10)
        assert ("train.profile: 3 steps are left of the run, too few; no profile" in caplog.text) == told
