"""A GAN's plan beside real ranks under DeepSpeed: bytes held, the most in an update, FLOPs and traffic."""

import json
from pathlib import Path
from typing import Any

import pytest
from gan_configs import gan_config
from ranks import run_ranks

from pretrain.config.hardware import make_cluster
from pretrain.plan.gan_plan import GanPlan, Images, plan_gan

WORKER = Path(__file__).with_name("gan_memory_worker.py")


def case(stages: tuple[int, int], **changes: Any) -> dict[str, Any]:
    generator, discriminator = stages
    return {"parallel__generator_stage": generator, "parallel__discriminator_stage": discriminator, **changes}


CASES: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": case((stage, stage)) for stage in range(4)},
    **{f"stage {stage}, bf16": case((stage, stage), precision="bf16") for stage in (1, 2, 3)},
    "mixed": case((3, 1), model__architecture="mlp", precision="bf16"),
    "mixed the other way": case((0, 2), loss__discriminator_steps=2, loss__kind="wasserstein"),
    "penalties": case((2, 1), model__architecture="modern", loss__r1=1.0, loss__r2=0.5),
    "lazy penalties": case((1, 2), loss__gradient_penalty=10.0, loss__penalty_every=2),
    "four micro-batches": case((2, 0), model__architecture="mlp", batch__micro_size=1),
    "four micro-batches, bf16": case((1, 2), batch__micro_size=1, precision="bf16"),
    "normalised": case(
        (3, 3), model__architecture="resnet", model__spectral_norm=True, model__batch_norm=True
    ),
    "changed images": case((1, 1), loss__kind="relativistic", loss__augment=["color", "translation"]),
    "conditional": case((2, 3), model__architecture="resnet", model__conditional=True),
}


def planned(changes: dict[str, Any], size: int) -> GanPlan:
    config = gan_config(**changes)
    images = Images(channels=1, classes=10 if config.model.conditional else 0, known=True)
    return plan_gan(config, make_cluster("cpu", size, None, None, None), images)


@pytest.fixture(scope="module", params=[1, 2])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any]:
    size: int = request.param
    output = tmp_path_factory.mktemp("gan-plan") / "rank"
    done = run_ranks(WORKER, size, {"output": str(output), "cases": CASES})
    assert done.returncode == 0, done.stderr
    return size, [json.loads(Path(f"{output}-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_real_ranks_hold_compute_and_send(measured: tuple[int, Any], name: str) -> None:
    size, ranks = measured
    plan = planned(CASES[name], size)
    first, *others = found = [rank[name] for rank in ranks]
    held = plan.generator.total + plan.discriminator.total
    # Numbers on their own, such as norms, are not planned; weights gathered at stage 3 may stay until used.
    assert held <= first["held"] <= held + 64 + plan.gathered
    assert all(other["held"] <= first["held"] for other in others)
    rounds = CASES[name].get("loss__discriminator_steps", 1)
    updates = (first["discriminator"], rounds), (first["generator"], 1)
    flops = sum(update["flops"] * times for update, times in updates)
    if "loss__penalty_every" in CASES[name]:  # the measured update has a penalty, every other one has not
        assert 0.6 * flops < plan.flops_per_step < 0.9 * flops
    else:
        assert plan.flops_per_step == pytest.approx(flops, rel=1e-3)
    peak = max(rank[update]["peak"] for rank in found for update in ("discriminator", "generator"))
    assert 0.95 * plan.activations <= peak <= 1.1 * plan.activations + plan.reducing + plan.gathered
    sent = sum(update["sent"] * times for update, times in updates)
    planned_sent = sum(each.sent for each in plan.traffic)
    if 3 in (plan.generator.stage, plan.discriminator.stage):
        assert 0.7 * planned_sent <= sent <= planned_sent
    else:
        assert sent == planned_sent


def test_a_penalty_and_an_offload_are_in_the_plan() -> None:
    plain, penalised = (planned(case((1, 1), loss__r1=r1), 1) for r1 in (0.0, 1.0))
    assert penalised.flops_per_step > 1.3 * plain.flops_per_step
    assert penalised.activations > 1.3 * plain.activations
    states = plain.generator.optimizer + plain.discriminator.optimizer
    assert plain.total(offloaded=False) - plain.total(offloaded=True) == states


def test_micro_batches_cost_no_more_memory_and_no_other_work() -> None:
    whole, divided = (planned(case((0, 0), batch__micro_size=size), 1) for size in (8, 2))
    assert divided.micro_batches == 4 and divided.flops_per_step == whole.flops_per_step
    assert divided.activations < 0.4 * whole.activations
