"""A GAN's checkpoints: the same bits on the same processes and stages, the same training on any others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("gan_worker.py")
STAGES = (0, 1, 2, 3)
CHANGES = {
    "model__batch_norm": True,
    "model__spectral_norm": True,
    "model__conditional": True,
    "loss__kind": "hinge",
    "optimizer__beta1": 0.5,
}
Run = dict[str, Any]

pytestmark = pytest.mark.slow


def run(generator: int, discriminator: int, **keys: Any) -> Run:
    stages = {"parallel__generator_stage": generator, "parallel__discriminator_stage": discriminator}
    return {"changes": {**CHANGES, **stages}, **keys}


def launch(folder: Path, size: int, runs: dict[str, Run]) -> None:
    done = run_ranks(WORKER, size, {"output": str(folder), "runs": runs}, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]


def step_folder(folder: Path, step: int) -> str:
    return str(folder / "checkpoints" / f"step-{step:08d}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes train, then one, then two again."""
    output = tmp_path_factory.mktemp("gan-checkpoints")
    moved = {size: output / f"moved-{size}" for size in (2, 1)}
    first: dict[str, Run] = {"save/moved": run(2, 2, stop=2, save=str(moved[2]))}
    for stage in STAGES:
        place = output / f"same-{stage}"
        first[f"whole/{stage}"] = run(stage, 3 - stage)
        first[f"save/{stage}"] = run(stage, 3 - stage, stop=3, save=str(place))
        first[f"resumed/{stage}"] = run(stage, 3 - stage, start=3, load=step_folder(place, 3))
        first[f"start/{stage}"] = run(stage, stage, stop=0)
        first[f"nan/{stage}"] = run(stage, stage, mutation="nan_gradient")
        first[f"lost/{stage}"] = run(stage, stage, mutation="nan_loss_on_one_rank")
    place = output / "left-out"
    left_out = {"mutation": "buffers_left_out"}
    first["save/left_out"] = run(0, 0, stop=3, save=str(place), **left_out)
    first["resumed/left_out"] = run(0, 0, start=3, load=step_folder(place, 3), **left_out)
    launch(output, 2, first)
    here = run(3, 3, start=2, stop=4, load=step_folder(moved[2], 2), save=str(moved[1]))
    launch(output, 1, {"moved": here, "one process": run(0, 0)})
    launch(output, 2, {"moved/end": run(1, 1, start=4, load=step_folder(moved[1], 4))})
    return output


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name.replace('/', '-')}.safetensors")


def losses(folder: Path, name: str) -> list[Any]:
    found: list[Any] = json.loads((folder / f"{name.replace('/', '-')}.json").read_text())
    return found


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_has_the_bits_of_the_uninterrupted_one(folder: Path, stage: int) -> None:
    whole, resumed = tensors(folder, f"whole/{stage}"), tensors(folder, f"resumed/{stage}")
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert losses(folder, f"whole/{stage}")[3:] == losses(folder, f"resumed/{stage}")
    assert worst(whole, tensors(folder, f"save/{stage}")) > 1e-4, "three steps changed nothing"


def test_other_processes_and_stages_go_on_with_the_same_training(folder: Path) -> None:
    """Stage 2 on two processes, then 3 on one, then 1 on two."""
    assert worst(tensors(folder, "moved/end"), tensors(folder, "one process")) <= 1e-5
    curve = losses(folder, "save/moved") + losses(folder, "moved") + losses(folder, "moved/end")
    expected = losses(folder, "one process")
    assert torch.allclose(torch.tensor(curve), torch.tensor(expected), atol=1e-5, rtol=0)


def test_buffers_are_part_of_the_state(folder: Path) -> None:
    resumed = tensors(folder, "resumed/left_out")
    assert worst(resumed, tensors(folder, "whole/0")) > 1e-4


FAULTS = {
    "nan": "update 1: the discriminator's gradient is not finite; its weights were not touched\n"
    "  ranks 0, 1: first gradient of discriminator.head.embedding.weight in micro-batch 0, samples 0 to 7",
    "lost": "update 1: loss_d is nan on rank 1; the weights were not touched\n"
    "  rank 1: first the loss in micro-batch 0, samples 4 to 7",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_finite_ends_the_run_and_touches_nothing(folder: Path, fault: str, stage: int) -> None:
    (message,) = losses(folder, f"{fault}/{stage}")
    assert message == FAULTS[fault]
    start, ended = tensors(folder, f"start/{stage}"), tensors(folder, f"{fault}/{stage}")
    parameters = [key for key in start if not key.endswith((".u", ".v")) and "running" not in key]
    assert [key for key in parameters if not torch.equal(start[key], ended[key])] == []
