"""What MLflow learns beside the journal: the job, the data, how busy the machine is."""

import os
from pathlib import Path

import pytest
from config_files import small_config
from image_shards import build_image_shards
from text_shards import build_shards

from data_tools.images.reader import ImageReader
from data_tools.reader import ShardReader
from pretrain.run.folder import RunFolder
from pretrain.tracking.datasets import datasets_of
from pretrain.tracking.facts import _git, environment_facts
from pretrain.tracking.journal import read
from pretrain.tracking.system import System, parse_gpus


def test_a_slurm_job_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "slurm.job" not in environment_facts()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-4]")
    facts = environment_facts()
    assert (facts["slurm.job"], facts["slurm.nodes"]) == ("4711", "n[1-4]")
    assert facts["user"]


def test_datasets_are_known_by_their_fingerprints(tmp_path: Path) -> None:
    text, images = tmp_path / "text", tmp_path / "images"
    build_shards(text, ["some words. "] * 9)
    build_image_shards(images, 5)
    sources = [{"path": str(text), "weight": 1.0}, {"path": str(images), "weight": 1.0}]
    missing = [{"path": str(tmp_path / "none"), "weight": 1.0}]
    config = small_config(data__train=sources, data__validation=missing)
    reader = ShardReader(text)
    assert datasets_of(config) == [
        {
            "context": "training",
            "path": str(text),
            "fingerprint": reader.fingerprint,
            "tokens": len(reader),
            "documents": 9,
        },
        {
            "context": "training",
            "path": str(images),
            "fingerprint": ImageReader(images).fingerprint,
            "images": 5,
        },
    ]


def test_the_machine_is_measured_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    system = System(folder)
    system.look()
    system.look()
    assert len(read(folder.system)) == 1, "it is not time yet"
    monkeypatch.setattr("pretrain.tracking.system.INTERVAL", 0.0)
    system.look()
    System(folder).look()  # of the next job
    lines = read(folder.system)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert 0 <= line["system/cpu_utilization_percentage"] <= 100
        assert 0 < line["system/system_memory_usage_percentage"] <= 100
        assert line["system/disk_available_megabytes"] > 0
    folder.system.write_text("no line\n")
    System(folder).look()  # says so in the log, and lets the run be
    assert folder.system.read_text() == "no line\n"


def test_what_nvidia_smi_says() -> None:
    text = "0, 97, 70123, 650.12\n1, [N/A], 12, [Not Supported]\n"
    assert parse_gpus(text) == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 70123.0,
        "gpu_0_power_usage_watts": 650.12,
        "gpu_1_memory_usage_megabytes": 12.0,
    }
    assert parse_gpus("") == {}


def test_looking_at_a_checkout_writes_nothing_into_it(tmp_path: Path) -> None:
    """`git status` would refresh its index, and leave a lock where it is ended in between."""
    file, index = tmp_path / "file", tmp_path / ".git/index"
    file.write_text("a")
    for arguments in (("init", "-q"), ("add", "file")):
        assert _git(tmp_path, *arguments) is not None
    os.utime(file, (1, 1))
    before = index.read_bytes()
    assert _git(tmp_path, "status", "--porcelain") == "A  file"
    assert index.read_bytes() == before
