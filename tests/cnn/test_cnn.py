"""The classifier's trainer: equal to a plain loop, to itself on two ranks, and to itself after a resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from config_files import REPOSITORY
from image_shards import build_image_shards
from ranks import run_ranks
from torch.nn import functional

from pretrain.checkpoint import newest_good, open_checkpoint
from pretrain.checkpoint.checkpoint import Checkpoint
from pretrain.cnn.model import build_cnn, shifted
from pretrain.config.load import load_config
from pretrain.config.node import ConfigError
from pretrain.config.sections import CnnModelConfig
from pretrain.data.images import ImageData
from pretrain.errors import UserError
from pretrain.seeds import stream_seed

WORKER = Path(__file__).with_name("cnn_worker.py")
STEPS = 6
RATES = (0.005, 0.01, 0.01, 0.01, 0.01, 0.01)
"""Of the schedule below: half of the peak in the first of two steps of warm-up."""
MODEL = {"kind": "cnn", "width": 4, "stages": 2, "features": 8}


def write(folder: Path, name: str, **changes: Any) -> str:
    tree: dict[str, Any] = {
        "run": {"dir": str(folder / name), "steps": STEPS, "seed": 3},
        "model": dict(MODEL),
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 1e-2, "beta2": 0.99},
        "schedule": {"kind": "constant", "warmup_steps": 2},
        "data": {"train": str(folder / "shards"), "shift": 1},
        "checkpoint": {"every": 3, "keep_last": 5},
        "tracking": {"enabled": False},
    }
    for key, value in changes.items():
        section, _, part = key.partition("__")
        tree.setdefault(section, {})[part] = value
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return str(folder / f"{name}.yaml")


CHANGED: dict[str, dict[str, Any]] = {
    "usual": {},
    "width": {"model__width": 8},
    "stages": {"model__stages": 1},
    "features": {"model__features": 4},
    "shift": {"data__shift": 0},
    "micro": {"batch__micro_size": 4},
    "bf16": {"precision": "bf16"},
    "uneven": {"model__stages": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cnn")
    build_image_shards(folder / "shards", 24)
    build_image_shards(folder / "held-out", 11, seed=5)
    for name in ("one", "resumed", "two"):
        write(folder, name, data__validation=str(folder / "held-out"))
    trainers = {
        name: write(folder, f"trainer-{name}", **{k: v for k, v in changes.items() if "__" in k})
        for name, changes in CHANGED.items()
    }
    Path(trainers["bf16"]).write_text(Path(trainers["bf16"]).read_text() + "precision: bf16\n")
    runs = [[str(folder / "one.yaml"), []]]
    runs += [[str(folder / "resumed.yaml"), [f"run.steps={steps}"]] for steps in (3, STEPS)]
    for processes, argument in (
        (1, {"runs": runs, "trainers": trainers}),
        (2, {"runs": [[str(folder / "two.yaml"), []]], "trainers": {}}),
    ):
        done = run_ranks(WORKER, processes, {**argument, "output": str(folder / f"seen-{processes}.json")})
        assert done.returncode == 0, done.stderr
    return folder


def checkpoint(run: Path) -> Checkpoint:
    path, passed_over = newest_good(run)
    assert path is not None and not passed_over
    return open_checkpoint(path)


def journal(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def plain_loop(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same training as anyone would write it: whole batches, one process, torch's AdamW."""
    config: Any = load_config(str(folder / "one.yaml")).config
    data = ImageData.open([(str(folder / "shards"), 1.0)], 3, 8, 8)
    model = build_cnn(config.model, 1, 8, 2, 3)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-2, (0.9, 0.99), 1e-8)
    losses = []
    for step in range(STEPS):
        ids = range(step * 8, step * 8 + 8)
        images, labels = data.images(ids)
        assert labels is not None
        images = shifted(images, 1, [stream_seed(3, "shift", sample) for sample in ids])
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, losses


@pytest.mark.slow
def test_equal_to_a_plain_loop_and_on_two_ranks(folder: Path) -> None:
    weights, losses = plain_loop(folder)
    for run in ("one", "two"):
        assert journal(folder / run, "loss") == pytest.approx(losses, rel=1e-5)
        saved = checkpoint(folder / run)
        for name, expected in weights.items():
            torch.testing.assert_close(saved.read(name), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_by_bit(folder: Path) -> None:
    one, resumed = checkpoint(folder / "one"), checkpoint(folder / "resumed")
    assert one.keys() == resumed.keys()
    assert len(one.keys()) == 3 * len(one.keys("weights"))
    for key in one.keys():  # noqa: SIM118 - not a mapping
        assert torch.equal(one.read(key), resumed.read(key)), key
    assert journal(folder / "one", "loss") == journal(folder / "resumed", "loss")


@pytest.mark.slow
def test_validation_is_the_same_on_two_ranks(folder: Path) -> None:
    model = build_cnn(CnnModelConfig(**MODEL), 1, 8, 2, 3)
    saved = checkpoint(folder / "one")
    model.load_state_dict({key: saved.read(key) for key in saved.keys("weights")})
    data = ImageData.open([(str(folder / "held-out"), 1.0)], 1, 11, 11)
    images, labels = data.images(range(11))
    assert labels is not None
    with torch.no_grad():
        hits = float((model(images).argmax(1) == labels).float().mean())
        loss = float(functional.cross_entropy(model(images).double(), labels))
    assert journal(folder / "one", "validation_accuracy") == [pytest.approx(hits)]
    assert journal(folder / "one", "validation_loss") == [pytest.approx(loss, rel=1e-6)]
    assert journal(folder / "two", "validation_loss") == [pytest.approx(loss, rel=1e-4)]


@pytest.mark.slow
def test_every_key_has_its_effect_and_no_other(folder: Path) -> None:
    seen = json.loads((folder / "seen-1.json").read_text())
    usual = seen["usual"]
    for name in ("width", "stages", "features"):
        assert seen[name]["shapes"] != usual["shapes"], name
        assert seen[name]["pixels"] == usual["pixels"], name
    assert seen["shift"]["pixels"] != usual["pixels"]
    assert seen["shift"]["shapes"] == usual["shapes"]
    assert (usual["batch"], seen["micro"]["batch"]) == ([2, 1, 8, 8], [4, 1, 8, 8])
    assert seen["micro"]["loss"] == pytest.approx(usual["loss"], rel=1e-6)
    assert seen["bf16"]["loss"] != usual["loss"]
    assert seen["bf16"]["loss"] == pytest.approx(usual["loss"], rel=2e-2)
    assert "model.stages: 4 stages do not halve images of 8 x 8 pixels evenly" in seen["uneven"]["refused"]


def test_the_shipped_configs_are_legal() -> None:
    for path in sorted((REPOSITORY / "configs/cnn").glob("*.yaml")):
        assert load_config(str(path), (), 2).config.model.kind == "cnn"


def test_shifts_move_over_black_and_stay_in_bounds() -> None:
    images = torch.full((9, 1, 4, 4), 200, dtype=torch.uint8)
    moved = shifted(images, 1, list(range(9)))
    found = {tuple((image > 0).nonzero()[0].tolist()[1:]) for image in moved}
    assert torch.equal(moved[4], images[4])  # the middle key moves nothing
    assert {int(image.sum()) // 200 for image in moved} == {9, 12, 16}
    assert found == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch__micro_size": 3},
            r"global_size: 8 images are not a multiple of micro_size x processes = 3 x 1 .*nearest",
        ),
        ({"eval__every": 5}, r"eval\.every: has no effect without data\.validation; set data\.validation"),
        ({"data__validation": "SHARDS"}, r"is also in data\.train: the accuracy would be"),
        ({"model__num_layers": 2}, r"'num_layers' has no effect here: it belongs to model\.kind gpt"),
        ({"schedule__min_lr": 0.1}, r"has no effect with kind constant"),
    ],
)
def test_bad_configs_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    placed = {key: str(tmp_path / "shards") if value == "SHARDS" else value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, "bad", **placed), (), 1)


@pytest.mark.parametrize(
    ("classes", "said"),
    [(0, "its images are without labels; a classifier needs two classes"), (1, "all of class '0'")],
)
def test_images_without_classes_are_refused(tmp_path: Path, classes: int, said: str) -> None:
    from pretrain.cnn.trainer import open_training_images

    build_image_shards(tmp_path / "shards", 8, classes=classes)
    config: Any = load_config(write(tmp_path, "unlabelled")).config
    with pytest.raises(UserError, match=said):
        open_training_images(config)
