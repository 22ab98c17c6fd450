"""Every loss, regulariser, architecture and ZeRO stage trains what plain PyTorch trains on the whole batch.

All runs of one world size follow one another in the same processes, since starting them costs most.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("gan_worker.py")
TOLERANCE = 1e-5
Changes = dict[str, Any]

KINDS = ("minimax", "non_saturating", "hinge", "wasserstein", "relativistic")
REGULARISERS: dict[str, Changes] = {
    "none": {},
    "r1": {"loss__r1": 1.0, "loss__penalty_every": 2},
    "r2": {"loss__r2": 1.0},
    "gradient_penalty": {"loss__gradient_penalty": 10.0},
    "spectral_norm": {"model__spectral_norm": True},
    "augment": {"loss__augment": ["color", "translation", "cutout"]},
}
PENALTIES = ("r1", "r2", "gradient_penalty")
MLP = {"model__architecture": "mlp", "model__generator_channels": 1, "model__discriminator_channels": 1}
# Where all images lie in one linear region of D, a Wasserstein loss gives its biases no gradient but rounding
# errors, which Adam would make steps of. Within its margins a hinge loss is linear too.
LARGE_EPSILON = {kind: {"optimizer__eps": 1e-4} for kind in ("wasserstein", "hinge")}
GAMES: dict[str, Changes] = {
    f"{kind}/{name}": {**MLP, "loss__kind": kind, **changes, **LARGE_EPSILON.get(kind, {})}
    for kind in KINDS
    for name, changes in REGULARISERS.items()
}
NETWORKS: dict[str, Changes] = {
    "dcgan": {"model__batch_norm": True, "model__spectral_norm": True, "loss__r1": 0.1},
    "resnet": {
        "model__architecture": "resnet",
        "model__batch_norm": True,
        "model__spectral_norm": True,
        "model__conditional": True,
        "loss__kind": "hinge",
        "loss__discriminator_steps": 2,
    },
    "modern": {
        "model__architecture": "modern",
        "model__conditional": True,
        "loss__kind": "relativistic",
        "loss__r1": 0.5,
        "loss__r2": 0.5,
        "optimizer__clip_grad": 0.5,
        "optimizer__beta1": 0.5,
        "optimizer__eps": 1e-4,  # it too has gradients so near 0 that rounding is much of them
    },
}
ACCUMULATED = {"batch__micro_size": 2, **MLP, "model__spectral_norm": True, "loss__r1": 1.0}
NORMALISED = {"model__batch_norm": True, "model__spectral_norm": True}
OFFLOADED = {**NORMALISED, "parallel__offload_optimizer": True}
ALL: dict[str, Changes] = {**GAMES, **NETWORKS, "accumulated": ACCUMULATED, "offloaded": OFFLOADED}
BF16 = {**NORMALISED, "precision": "bf16"}
BF16_TOLERANCE = 5e-3
"""About what bf16's eight bits leave of losses near 1; none of the faults here is so small."""
SIZES = (1, 2)


def stages(changes: Changes) -> list[tuple[int, int]]:
    """(stage of G, stage of D) that can train it; the two differ where D cannot be at 3."""
    penalised = any(f"loss__{name}" in changes for name in PENALTIES)
    sharded = [(1, 1), (2, 2), (3, 2) if penalised else (3, 3)]
    needs_them = "parallel__offload_optimizer" in changes or "precision" in changes
    return sharded if needs_them else [(0, 0), *sharded]


def staged(changes: Changes, generator: int, discriminator: int) -> Changes:
    keys = {"parallel__generator_stage": generator, "parallel__discriminator_stage": discriminator}
    return {**changes, **keys}


MUTATIONS: dict[str, tuple[int, str, Changes]] = {
    "two_backward_passes/1": (1, "non_saturating/none", staged(GAMES["non_saturating/none"], 1, 1)),
    "two_backward_passes/2": (1, "non_saturating/none", staged(GAMES["non_saturating/none"], 2, 2)),
    "discriminator_through_its_engine": (1, "hinge/none", staged(GAMES["hinge/none"], 3, 3)),
    "discriminator_not_frozen": (1, "hinge/none", GAMES["hinge/none"]),
    "same_noise_on_every_rank": (2, "hinge/none", GAMES["hinge/none"]),
    "batch_norm_of_one_rank": (2, "dcgan", NETWORKS["dcgan"]),
    "batch_norm_without_its_gradient": (2, "dcgan", NETWORKS["dcgan"]),
    "power_iteration_in_every_micro_batch": (1, "accumulated", ACCUMULATED),
}

pytestmark = pytest.mark.slow


def name_of(key: str, size: int, generator: int, discriminator: int) -> str:
    return f"{key}@{size}-{generator}-{discriminator}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses and weights of every run and of every reference."""
    output = tmp_path_factory.mktemp("gan")
    for size in SIZES:
        runs: dict[str, Any] = {}
        for key, changes in {**ALL, "bf16": BF16}.items():
            if size == 1 and key != "bf16":
                plain = {name: value for name, value in changes.items() if name != "batch__micro_size"}
                runs[key] = {"changes": plain, "plain": True}
            for generator, discriminator in stages(changes):
                name = name_of(key, size, generator, discriminator)
                runs[name] = {"changes": staged(changes, generator, discriminator)}
        for key, (where, _, changes) in MUTATIONS.items():
            if where == size:
                runs[f"mutation/{key}"] = {"changes": changes, "mutation": key.split("/")[0]}
        done = run_ranks(WORKER, size, {"output": str(output), "runs": runs}, timeout=800)
        assert done.returncode == 0, done.stderr[-4000:]
    return output


def difference(folder: Path, name: str, reference: str) -> tuple[float, float]:
    """Largest difference of losses, and of weights and buffers; infinite for a run that a verdict stopped."""
    paths = [folder / each.replace("/", "-") for each in (name, reference)]
    curves = [json.loads(Path(f"{path}.json").read_text()) for path in paths]
    if isinstance(curves[0][-1], str):
        return float("inf"), float("inf")
    losses, expected = map(torch.tensor, curves)
    tensors, others = (load_file(f"{path}.safetensors") for path in paths)
    worst = max(float((tensors[key] - others[key]).abs().max()) for key in others)
    return float((losses - expected).abs().max()), worst


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", ALL)
def test_every_stage_trains_what_plain_pytorch_trains(folder: Path, key: str, size: int) -> None:
    for generator, discriminator in stages(ALL[key]):
        losses, tensors = difference(folder, name_of(key, size, generator, discriminator), key)
        assert losses <= TOLERANCE, (generator, discriminator, losses)
        assert tensors <= TOLERANCE, (generator, discriminator, tensors)


@pytest.mark.parametrize("size", SIZES)
def test_bf16_trains_nearly_the_same_and_keeps_fp32(folder: Path, size: int) -> None:
    """The reference is that of "offloaded", which has the same model."""
    for generator, discriminator in stages(BF16):
        name = name_of("bf16", size, generator, discriminator)
        losses, _ = difference(folder, name, "offloaded")
        assert 0 < losses <= BF16_TOLERANCE, (generator, discriminator, losses)
        kept = load_file(folder / f"{name}.safetensors")
        assert {tensor.dtype for tensor in kept.values()} == {torch.float32}, "weights or buffers were cast"


@pytest.mark.parametrize("key", ALL)
def test_something_was_learned(folder: Path, key: str) -> None:
    losses = json.loads((folder / f"{key.replace('/', '-')}.json").read_text())
    assert abs(losses[-1][0] - losses[0][0]) > 1e-3 or abs(losses[-1][1] - losses[0][1]) > 1e-3


@pytest.mark.parametrize("key", MUTATIONS)
def test_a_silent_fault_is_seen(folder: Path, key: str) -> None:
    losses, tensors = difference(folder, f"mutation/{key}", MUTATIONS[key][1])
    assert max(losses, tensors) > 10 * TOLERANCE
