"""A GAN's whole life by the installed commands: killed and resumed, scored on one rank and two, drawn from.

Ranks are forks of a warm process, as in `test_resume`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bad_input_commands import Commands
from image_shards import build_image_shards
from loopback import serve
from PIL import Image
from resume_runs import Life, Runs
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pretrain.gan.samples import GAP
from pretrain.proofs.compare import compare_tensors, last_step, newest
from pretrain.tracking.journal import curve, read

STEPS, KILLED_AT = 24, 6
SIDE, CLASSES = 16, 2
METRICS = ("loss_d", "loss_g", "answer_real", "answer_fake", "grad_norm_d", "grad_norm_g")
CASES: dict[str, tuple[int, list[str]]] = {
    "two ranks, stages 3 and 2": (2, ["parallel.generator_stage=3", "parallel.discriminator_stage=2"]),
    "bf16": (1, ["parallel.generator_stage=1", "parallel.discriminator_stage=1", "precision=bf16"]),
}

pytestmark = pytest.mark.slow


def write(path: Path, tree: dict[str, Any]) -> Path:
    tree = {**tree, "tracking": {"enabled": False}}
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def folder(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a classifier that was trained on them, and the GAN's config."""
    folder = tmp_path_factory.mktemp("gan-runs")
    for name, drawing in {
        "train": {"count": 40},
        "held-out": {"count": 30, "seed": 5},
        "flat": {"count": 20, "classes": 0},
        "one": {"count": 1, "classes": 0},
    }.items():
        build_image_shards(folder / name, size=SIDE, **drawing)
    model = {"kind": "cnn", "width": 4, "features": 6}
    batch = {"global_size": 8, "micro_size": 8}
    cnn = {"run": {"dir": str(folder / "cnn"), "steps": 4}, "model": model, "batch": batch}
    cnn |= {"optimizer": {"lr": 1e-2}, "data": {"train": str(folder / "train")}}
    ended = commands.run("train", write(folder / "cnn.yaml", cnn))
    assert ended.code == 0, ended.said
    gan = {
        "run": {"dir": str(folder / "gan"), "steps": STEPS},
        "model": {
            "kind": "gan",
            "image_size": SIDE,
            "latent_size": 8,
            "generator_channels": 4,
            "discriminator_channels": 4,
            "conditional": True,
            "batch_norm": True,
            "spectral_norm": True,
        },
        "batch": {"global_size": 8},
        "optimizer": {"lr": 1e-3},
        "loss": {"r1": 0.1, "penalty_every": 2, "augment": ["color", "translation"]},
        "data": {"train": str(folder / "train")},
        "checkpoint": {"every": 4},
        "eval": {"every": 8, "samples": 16},
    }
    write(folder / "gan.yaml", gan)
    return folder


@pytest.fixture(scope="module")
def runs(commands: Commands, folder: Path) -> Runs:
    return Runs(commands.server, folder / "gan.yaml", folder)


@pytest.fixture(scope="module")
def trained(runs: Runs) -> Path:
    """The uninterrupted run on two ranks."""
    size, overrides = CASES["two ranks, stages 3 and 2"]
    runs.finish(runs.folder / "gan", size, overrides)
    return runs.folder / "gan"


def kill(life: Life) -> None:
    life.until(lambda: last_step(life.run) >= KILLED_AT)
    assert life.kill(), "the run was over before the kill"


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(runs: Runs, trained: Path, case: str) -> None:
    size, overrides = CASES[case]
    whole, killed = trained, runs.folder / f"killed-{size}"
    if case == "bf16":
        whole = runs.folder / "whole-bf16"
        runs.finish(whole, size, overrides)
    kill(runs.start(killed, size, overrides, mutation="paced"))
    runs.finish(killed, size, overrides)
    assert "resumed from" in runs.folder.joinpath(f"{killed.name}.log").read_text()
    for metric in METRICS:
        curves = [list(curve(read(run / "metrics.jsonl"), metric)) for run in (whole, killed)]
        assert curves[0] == curves[1], metric
        assert [step for step, _ in curves[0]] == list(range(1, STEPS + 1))
    ends = newest(whole), newest(killed)
    for group in ("weights", "optimizer"):
        found = compare_tensors(*ends, group)
        assert found.compared > 10
        assert found.first is None
    assert all(ends[0].state[key] == ends[1].state[key] for key in ends[0].state.keys() - {"run"})
    for name in ("generator", "generator_ema"):
        files = [run / "final" / f"{name}.safetensors" for run in (whole, killed)]
        assert files[0].read_bytes() == files[1].read_bytes()
    grids = [sorted((run / "artifacts" / "samples").glob("*.png")) for run in (whole, killed)]
    assert [path.name for path in grids[0]] == [f"step-{step:08d}.png" for step in (8, 16, 24)]
    assert [path.read_bytes() for path in grids[0]] == [path.read_bytes() for path in grids[1]]


def evaluate(
    commands: Commands, folder: Path, run: Path, size: int, data: object = None, *overrides: object
) -> dict[str, Any]:
    """The result of `pretrain eval` on so many ranks."""
    output = folder / f"result-{size}.json"
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    data = data or folder / "held-out"
    argv = ["eval", run, "--extractor", folder / "cnn", "--data", data, "--json", output, *overrides]
    pids = [
        commands.start(
            *argv,
            RANK=rank,
            LOCAL_RANK=rank,
            WORLD_SIZE=size,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=store.port,
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        for rank in range(size)
    ]
    for ended in [commands.wait(pid) for pid in pids]:
        assert ended.code == 0, ended.said
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_an_evaluation_is_the_same_on_one_rank_and_two(
    commands: Commands, folder: Path, trained: Path
) -> None:
    one, two = (evaluate(commands, folder, trained, size) for size in (1, 2))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5, abs=1e-7)  # as in test_eval_images
    assert one["step"] == STEPS
    names = ("fd", "kid", "precision", "recall", "density", "coverage", "memorised")
    assert set(one["metrics"]) == {f"{name}_cnn" for name in names} | {"kid_cnn_error"}
    spec = one["spec"]
    assert (spec["samples"], spec["reference_images"], spec["seed"]) == (30, 30, 1234)
    assert sum(spec["classes"]["generated"].values()) == 30
    assert sum(spec["classes"]["reference"].values()) == 30
    counts = [spec["classes"][what] for what in ("generated", "reference")]
    by_class = ", ".join(f"{name}: {counts[0][name]} / {counts[1][name]}" for name in ("0", "1"))
    assert spec["summary"].endswith(f"by class, generated / real: {by_class}")
    assert any("fewer than 2,048" in warning for warning in spec["warnings"])


def test_shards_by_url_train_and_score_the_same(
    commands: Commands, runs: Runs, folder: Path, trained: Path
) -> None:
    size, overrides = CASES["two ranks, stages 3 and 2"]
    cache, by_url = f"data.cache_dir={folder / 'cache'}", folder / "by-url"
    with serve(folder) as server:
        train = [f"data.train={server.url}/train", cache]
        runs.finish(by_url, size, [*overrides, *train, "run.steps=3"])
        found = evaluate(commands, folder, trained, 1, f"{server.url}/held-out", *train)
        scored = commands.run("eval", folder / "cnn", "--data", f"{server.url}/train", cache)
        bare = commands.run("eval", folder / "cnn", "--data", f"{server.url}/train")
        small = commands.run("check", folder / "gan.yaml", *train, "data.cache_bytes=9")
    for metric in METRICS:
        whole, far = (list(curve(read(run / "metrics.jsonl"), metric)) for run in (trained, by_url))
        assert far == whole[:3], metric
    assert found["metrics"] == evaluate(commands, folder, trained, 1)["metrics"]
    assert found["spec"]["reference"][0]["path"] == f"{server.url}/held-out"
    assert scored.code == 0, scored.said
    bare.refused(2, f"--data: {server.url}/train: a URL needs data.cache_dir")
    small.refused(2, "data.train: ", "bytes are more than data.cache_bytes 9; the nearest legal is ")
    useless = commands.run("eval", folder / "cnn", "--data", folder / "train", cache)
    useless.refused(2, "data.cache_dir: has no effect on shards that are not named by a URL")


def test_options_of_other_models_are_refused(commands: Commands, folder: Path, trained: Path) -> None:
    cnn = ("--extractor", folder / "cnn")
    commands.run("eval", trained).refused(2, "name one extractor")
    commands.run("eval", trained, *cnn, "--stride", 4).refused(2, "--stride 4 has no effect on a GAN")
    commands.run("eval", trained, *cnn, "run.seed=2").refused(2, "run.seed=2: has no effect on a GAN's")
    commands.run("eval", trained, "--extractor", trained).refused(2, "--extractor: ", "gan")
    commands.run("generate", trained, "--prompt", "a").refused(2, "--prompt")


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_images_are_drawn_as_a_grid_and_as_a_folder(
    commands: Commands, folder: Path, trained: Path, tmp_path: Path
) -> None:
    grid, images = tmp_path / "grid.png", tmp_path / "images"
    for target, more in ((grid, ()), (images, ()), (tmp_path / "raw.png", ("--raw",))):
        ended = commands.run("generate", trained, "--output", target, "--count", 6, "--seed", 3, *more)
        assert ended.code == 0, ended.said
        assert f"{target}: 6 images of 16 x 16" in ended.said
    whole = pixels(grid)
    assert whole.shape == (2 * SIDE + GAP, 3 * SIDE + 2 * GAP)
    assert (whole != pixels(tmp_path / "raw.png")).any(), "the average is the generator itself"
    for number in range(6):
        top, left = number // 3 * (SIDE + GAP), number % 3 * (SIDE + GAP)
        alone = pixels(images / str(number % CLASSES) / f"{number:06d}.png")
        assert (alone == whole[top : top + SIDE, left : left + SIDE]).all()
    of_one = tmp_path / "ones"
    ended = commands.run("generate", trained, "--output", of_one, "--count", 3, "--seed", 3, "--class", 1)
    assert ended.code == 0, ended.said
    assert sorted(path.name for path in (of_one / "1").iterdir()) == [f"{n:06d}.png" for n in range(3)]
    # Three images together are other sums than six: where a brightness lies at a half, it may turn.
    same, other = (pixels(place / "1" / "000001.png").astype(int) for place in (of_one, images))
    assert abs(same - other).max() <= 1, "an image depends on how it is asked for"
    commands.run("generate", trained, "--output", images).refused(2, "is not an empty folder")
    commands.run("generate", trained, "--output", grid, "--class", 2).refused(2, "has classes 0 to 1")
    commands.run("generate", trained, "--output", grid, "--count", 20_000).refused(2, "a grid has at most")


def test_images_that_do_not_fit_are_refused(commands: Commands, folder: Path) -> None:
    config, flat = folder / "gan.yaml", f"data.train={folder / 'flat'}"
    commands.run("check", config, flat).refused(2, "model.conditional", "has no labels", "folder per class")
    commands.run("check", config, "model.image_size=32").refused(2, "set model.image_size: 16")
    one, elsewhere = f"data.train={folder / 'one'}", f"run.dir={folder / 'of-one'}"
    commands.run("train", config, one, elsewhere, "model.conditional=false").refused(
        2, "data.train: ", "has one image; a GAN learns what two or more have in common"
    )
