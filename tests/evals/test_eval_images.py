"""Evaluations of images by a classifier's features: the same on one and two ranks, and what they say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from image_shards import build_image_shards
from ranks import run_ranks
from torch import Tensor

from data_tools.images.reader import ImageReader
from evals.frechet import frechet_distance
from evals.images.extractors import InceptionExtractor, open_extractor
from evals.images.features import chosen_images
from evals.images.options import NO_IMAGE_OPTIONS, ImageEvalOptions
from evals.kid import kernel_distance, unit_scale
from evals.precision_recall import precision_recall
from pretrain.cnn.score import load_classifier
from pretrain.errors import IntegrityError, UserError

WORKER = Path(__file__).with_name("image_worker.py")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Answers of one rank and of two, and the folder under "folder"."""
    folder = tmp_path_factory.mktemp("images")
    for name, options in {
        "train": {"count": 150},
        "held-out": {"count": 130, "seed": 7},
        "few": {"count": 5},
        "large": {"count": 12, "size": 16},
        "other": {"count": 12, "classes": 3},
    }.items():
        build_image_shards(folder / name, **options)
    config = {
        "run": {"dir": str(folder / "small.cnn"), "steps": 8},
        "model": {"kind": "cnn", "width": 4, "features": 6},
        "batch": {"global_size": 16, "micro_size": 8},
        "optimizer": {"lr": 1e-2},
        "data": {"train": str(folder / "train"), "validation": str(folder / "held-out")},
        "tracking": {"enabled": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    base = {
        "extractor": str(folder / "small.cnn"),
        "reference": [str(folder / "held-out")],
        "training": [str(folder / "train")],
    }
    comparisons = {
        "noise": {**base, "cache": str(folder / "cache")},
        "again": {**base, "cache": str(folder / "cache")},
        "uncached": base,
        "copies": {**base, "copied": str(folder / "train"), "samples": 70},
        "on-training": {**base, "reference": base["training"], "samples": 20},
        "few": {**base, "reference": [str(folder / "few")]},
        "few-samples": {**base, "samples": 5},
        "large": {**base, "reference": [str(folder / "large")]},
    }
    run = str(folder / "small.cnn")
    found: dict[str, Any] = {"folder": folder}
    for processes, argument in (
        (1, {"train": str(folder / "config.yaml"), "accuracy": run, "comparisons": comparisons}),
        (2, {"accuracy": run, "comparisons": {"uncached": base, "copies": comparisons["copies"]}}),
    ):
        output = folder / f"answers-{processes}.json"
        done = run_ranks(WORKER, processes, {**argument, "output": str(output)})
        assert done.returncode == 0, done.stderr
        found[str(processes)] = json.loads(output.read_text())
    return found


@pytest.mark.slow
def test_one_and_two_ranks_agree(answers: dict[str, Any]) -> None:
    """Batches of images are the same; what a processor's libraries make of two processes may round otherwise,
    and distances are differences of sums that are a hundred times as large."""
    for name in ("uncached", "copies", "accuracy"):
        one, two = (answers[size][name]["metrics"] for size in ("1", "2"))
        assert two == pytest.approx(one, rel=1e-5, abs=1e-7), name


@pytest.mark.slow
def test_metrics_are_those_of_the_features(answers: dict[str, Any]) -> None:
    folder = answers["folder"]
    saved = load_classifier(folder / "small.cnn", CPU)
    real = _features(saved, folder / "held-out", range(130))
    made = _features(saved, folder / "train", [7 * number % 150 for number in range(70)])
    scale = unit_scale(real)
    kid = kernel_distance(made * scale, real * scale)
    assert answers["1"]["copies"]["spec"]["kid_scale"] == pytest.approx(scale, rel=1e-5)
    expected = {
        "fd_small_cnn": frechet_distance(real, made),
        **dict(zip(("kid_small_cnn", "kid_small_cnn_error"), kid, strict=True)),
        **{f"{key}_small_cnn": value for key, value in precision_recall(real, made).items()},
        "memorised_small_cnn": 1.0,
    }
    assert answers["1"]["copies"]["metrics"] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def _features(saved: Any, path: Path, numbers: Sequence[int]) -> Any:
    reader = ImageReader(path)
    pictures = torch.from_numpy(np.stack([reader.pixels(number) for number in numbers]))
    return saved.classifier.features(pictures).numpy()


@pytest.mark.slow
def test_noise_is_far_and_copies_are_near_and_memorised(answers: dict[str, Any]) -> None:
    noise, copies = (answers["1"][name]["metrics"] for name in ("noise", "copies"))
    assert noise["fd_small_cnn"] > 3 * copies["fd_small_cnn"]
    assert noise["kid_small_cnn"] > copies["kid_small_cnn"]
    assert copies["precision_small_cnn"] > noise["precision_small_cnn"]
    assert noise["memorised_small_cnn"] < 0.1
    assert not any(name.startswith("fid") for name in noise)


@pytest.mark.slow
def test_the_result_says_what_was_compared(answers: dict[str, Any]) -> None:
    spec = answers["1"]["copies"]["spec"]
    folder = answers["folder"]
    assert (spec["samples"], spec["reference_images"]) == (70, 130)
    assert spec["reference"][0]["fingerprint"] == ImageReader(folder / "held-out").fingerprint
    assert spec["extractor"]["features"] == 6
    assert len(spec["extractor"]["fingerprint"]) == 64
    assert sum(spec["classes"]["generated"].values()) == 70
    assert sum(spec["classes"]["reference"].values()) == 130
    assert "70 generated images are fewer than 2,048" in spec["warnings"][0]
    assert f"warning: {spec['warnings'][0]}" in answers["1"]["copies"]["said"]
    on_training = answers["1"]["on-training"]["spec"]["warnings"]
    assert any("those of training" in warning for warning in on_training)


@pytest.mark.slow
def test_kept_features_are_used_only_when_whole(answers: dict[str, Any]) -> None:
    noise, again, uncached = (answers["1"][name] for name in ("noise", "again", "uncached"))
    assert noise["metrics"] == again["metrics"] == uncached["metrics"]
    cache = answers["folder"] / "cache"
    assert len(list(cache.glob("real-*.f32"))) == 2  # held-out, and training for memorisation
    from evals.images.features import _read

    (name, shape) = next(
        (path.stem, json.loads(path.read_text())["shape"]) for path in sorted(cache.glob("*.json"))
    )
    assert _read(cache, name, tuple(shape)) is not None
    raw = bytearray((cache / f"{name}.f32").read_bytes())
    raw[7] ^= 1
    (cache / f"{name}.f32").write_bytes(raw)
    assert _read(cache, name, tuple(shape)) is None


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(answers: dict[str, Any]) -> None:
    refused = {name: answers["1"][name]["refused"] for name in ("few", "few-samples", "large")}
    assert refused["few"] == "the reference's images: 5 are too few to compare; give at least 6"
    assert refused["few-samples"] == "--samples: 5 are too few to compare; give at least 6"
    assert "images of 16 x 16 in 1 channels; the generator makes 8 x 8 in 1" in refused["large"]


@pytest.mark.slow
def test_accuracy_is_the_trainers(answers: dict[str, Any]) -> None:
    lines = (answers["folder"] / "small.cnn/metrics.jsonl").read_text().splitlines()
    trained = [json.loads(line) for line in lines if "validation_accuracy" in line]
    metrics = answers["1"]["accuracy"]["metrics"]
    assert metrics["accuracy"] == trained[-1]["validation_accuracy"]
    assert metrics["validation_loss"] == pytest.approx(trained[-1]["validation_loss"], rel=1e-6)
    assert metrics["images_scored"] == 130


class Pooled(torch.nn.Module):
    """Takes Inception's place: some sums of pixels, as many as it gives features."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        sums = images.to(torch.float32).mean([2, 3]).sum(1, keepdim=True)
        if not return_features:
            return sums
        return sums * torch.arange(self.count, dtype=torch.float32)


def script(path: Path, count: int = 2048) -> str:
    torch.jit.script(Pooled(count)).save(str(path))
    return str(path)


def test_inception_comes_from_a_file_and_says_so(tmp_path: Path) -> None:
    path = script(tmp_path / "inception.pt")
    options = ImageEvalOptions(inception_weights=path)
    extractor = open_extractor(options, CPU, print)
    assert (extractor.frechet_name, extractor.name) == ("fid", "inception")
    grey = torch.full((2, 1, 8, 8), 10, dtype=torch.uint8)
    assert extractor.features(grey)[:, 1].tolist() == [30, 30]
    assert extractor.features(grey.expand(-1, 3, -1, -1))[:, 1].tolist() == [30, 30]
    resized = InceptionExtractor(path, None, "antialias", CPU)
    assert resized.features(grey)[:, 1].tolist() == [30, 30]
    described, other = extractor.describe(), resized.describe()
    assert len(described["sha256"]) == 64
    assert described["resize"] != other["resize"]
    InceptionExtractor(path, described["sha256"].upper(), "file", CPU)


def test_a_wrong_extractor_is_refused(tmp_path: Path) -> None:
    path = script(tmp_path / "inception.pt")
    with pytest.raises(IntegrityError, match=r"its SHA-256 is [0-9a-f]{64}, not the expected abc"):
        open_extractor(ImageEvalOptions(inception_weights=path, inception_sha256="abc"), CPU, print)
    with pytest.raises(UserError, match=r"gives \[5\] numbers for an image, Inception gives \[2048\]"):
        open_extractor(ImageEvalOptions(inception_weights=script(tmp_path / "five.pt", 5)), CPU, print)
    (tmp_path / "text.pt").write_text("no module")
    with pytest.raises(UserError, match=r"text\.pt: does not work as a TorchScript file"):
        open_extractor(ImageEvalOptions(inception_weights=str(tmp_path / "text.pt")), CPU, print)
    with pytest.raises(UserError, match=r"nowhere\.pt: cannot be read: No such file"):
        open_extractor(ImageEvalOptions(inception_weights="nowhere.pt"), CPU, print)
    with pytest.raises(UserError, match="name one extractor, --extractor RUN"):
        open_extractor(NO_IMAGE_OPTIONS, CPU, print)
    with pytest.raises(UserError, match="both are given: name one extractor"):
        open_extractor(ImageEvalOptions(extractor="a", inception_weights=path), CPU, print)
    with pytest.raises(UserError, match="--resize file has no effect without --inception-weights"):
        open_extractor(ImageEvalOptions(extractor="a", resize="file"), CPU, print)
    with pytest.raises(UserError, match=r"--extractor: .*nowhere"):
        open_extractor(ImageEvalOptions(extractor=str(tmp_path / "nowhere")), CPU, print)


def test_images_beyond_the_limit_are_drawn_evenly(tmp_path: Path) -> None:
    readers = [ImageReader(build_image_shards(tmp_path / name, 10)) for name in ("a", "b")]
    assert chosen_images(readers, 50) == [(which, number) for which in range(2) for number in range(10)]
    drawn = chosen_images(readers, 8)
    assert drawn == chosen_images(readers, 8) == sorted(set(drawn))
    assert 0 < sum(which for which, _ in drawn) < 8


def test_options_travel_to_the_ranks() -> None:
    options = ImageEvalOptions(extractor="runs/a", samples=10, seed=0)
    assert options.arguments() == ["--extractor", "runs/a", "--samples", "10", "--seed", "0"]
