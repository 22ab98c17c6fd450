"""`pretrain plan` as a user calls it."""

import json
from pathlib import Path
from typing import Any

import pytest
from config_files import REPOSITORY, write_config
from image_shards import build_image_shards
from loopback import serve
from text_shards import build_shards

from pretrain.config.hardware import GPUS, make_cluster
from pretrain.errors import UserError
from pretrain.plan.command import PlanRequest, plan_command


def request(**changes: object) -> PlanRequest:
    given: dict[str, object] = {"gpu": "h100-80g", "gpus": 8, "nodes": None, "per_node": None}
    given |= {"network_gbit": None, "vocab_size": 300, "tokens": None, "search": False, "json": True}
    return PlanRequest(**{**given, **changes})  # type: ignore[arg-type]


def test_a_plan_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path / "config.yaml", precision="bf16")
    overrides = ["parallel.tensor=2", "parallel.pipeline=2", "batch.global_size=16"]
    plan_command(path, overrides, request())
    plan = json.loads(capsys.readouterr().out)
    assert plan["replicas"] == 2 and plan["micro_batches"] == 4 and len(plan["stages"]) == 2
    groups = {each["group"]: each for each in plan["traffic"]}
    assert set(groups) == {"tensor", "data", "pipeline", "embedding"}
    assert not any(each["crosses_nodes"] for each in groups.values())
    stage = plan["stages"][0]
    # bf16 weights, fp32 gradients; master weights, two moments and counters are not shared here.
    parameters = stage["states"]["parameters"]
    assert stage["states"]["weights"] == 2 * parameters and stage["states"]["gradients"] == 4 * parameters
    assert 12 * parameters < stage["states"]["optimizer"] < 12 * parameters + 1000
    plan_command(path, [*overrides, "parallel.distributed_optimizer=true"], request(gpus=16))
    wide = json.loads(capsys.readouterr().out)
    assert {each["group"]: each["crosses_nodes"] for each in wide["traffic"]} == {
        "tensor": False,
        "data": False,
        "pipeline": True,
        "embedding": True,
    }
    assert wide["stages"][0]["states"]["optimizer"] < stage["states"]["optimizer"] / 3


def test_a_plan_for_people_says_where_its_numbers_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "config.yaml")
    plan_command(path, [], request(gpus=1, gpu="cpu", json=False, vocab_size=None))
    said = " ".join(capsys.readouterr().out.split())
    assert "assumed: data.train is not here" in said and "fits: stage 0 needs" in said
    assert "estimates" in said and GPUS["cpu"].source in said
    plan_command(path, ["model.hidden_size=65536", "model.num_layers=64"], request(gpus=1, json=False))
    assert "does not fit" in capsys.readouterr().out


def test_the_vocabulary_is_that_of_shards_here_or_by_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_shards(tmp_path / "shards", ["abc"] * 3)
    with serve(tmp_path) as server:
        cache = f"data.cache_dir={tmp_path / 'cache'}"
        for where in ([f"data.train={tmp_path / 'shards'}"], [f"data.train={server.url}/shards", cache]):
            path = write_config(tmp_path / "config.yaml")
            plan_command(path, where, request(gpus=1, gpu="cpu", json=False, vocab_size=None))
            assert "from data.train" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "cache").exists()


def test_a_search_ranks_what_fits_and_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "config.yaml", precision="bf16", model__num_layers=2)
    plan_command(path, ["batch.global_size=4"], request(gpus=2, search=True))
    answer = json.loads(capsys.readouterr().out)
    seconds = [each["seconds"] for each in answer["found"]]
    assert seconds == sorted(seconds) and {each["layout"]["tensor"] for each in answer["found"]} == {1, 2}
    assert any("micro" in each["reason"] for each in answer["out"])
    with pytest.raises(UserError, match=r"none of \d+ layouts fits 2 x cpu; the nearest: TP2 .* need "):
        plan_command(path, ["model.hidden_size=16384"], request(gpus=2, gpu="cpu", search=True))


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("gan/dcgan", {"search": True}, "--search has no effect on the plan of a GAN"),
        ("gan/dcgan", {"tokens": 1e9}, "--tokens has no effect on the plan of a GAN"),
        ("gan/dcgan", {"vocab_size": 9}, "--vocab-size has no effect on the plan of a GAN"),
        ("gpt/tiny", {"tokens": 1e9, "search": True}, "--tokens has no effect with --search"),
        ("gpt/tiny", {"tokens": float("inf")}, "--tokens inf: must be a number"),
        ("cnn/digits", {"gpus": 1}, "plans are made for gpt, bert and gan, got cnn"),
    ],
)
def test_options_without_effect_are_refused(config: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_command(
            str(REPOSITORY / f"configs/{config}.yaml"), [], request(**{"vocab_size": None, **options})
        )


def plan_dcgan(capsys: pytest.CaptureFixture[str], *overrides: str, **changes: object) -> dict[str, Any]:
    path = str(REPOSITORY / "configs" / "gan" / "dcgan.yaml")
    plan_command(path, list(overrides), request(**{"gpus": 4, "vocab_size": None, **changes}))
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gan_by_zero_stages(stage: int, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [f"parallel.{net}_stage={stage}" for net in ("generator", "discriminator")]
    free = ["loss.r1=0", "loss.penalty_every=null", f"precision={'bf16' if stage else 'fp32'}"]
    network = plan_dcgan(capsys, *stages, *free)["generator"]
    count = network["parameters"]
    few = {"abs": 200}  # bytes of padding and counters
    assert network["optimizer"] == pytest.approx(12 * count / 4 if stage else 8 * count, **few)
    assert network["gradients"] == pytest.approx({0: 0, 1: 4, 2: 0, 3: 5}[stage] * count, abs=300)
    statistics = {"abs": 8000}  # of batch normalisation, whole on every rank
    assert network["weights"] == pytest.approx({0: 4, 1: 2, 2: 2, 3: 0.5}[stage] * count, **statistics)
    assert network["average"] == pytest.approx(count if stage else 4 * count, **few)


def test_a_gan_on_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    node = plan_dcgan(capsys, gpus=8)
    nodes = plan_dcgan(capsys, gpus=64)
    slow = plan_dcgan(capsys, gpus=64, network_gbit=1.0)
    assert not any(each["crosses_nodes"] for each in node["traffic"])
    assert all(each["crosses_nodes"] for each in nodes["traffic"])
    assert slow["time"]["reduction"] == pytest.approx(400 * nodes["time"]["reduction"])
    assert slow["images_per_second"] < nodes["images_per_second"]
    time = nodes["time"]
    assert time["total"] == time["compute"] + time["reduction"] + time["update"]


def test_a_gan_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(REPOSITORY / "configs" / "gan" / "dcgan.yaml")
    plan_command(path, [], request(vocab_size=None, json=False))
    said = " ".join(capsys.readouterr().out.split())
    assert "RGB, assumed: data.train is not here" in said and "GPU-hours" in said and "fits: a rank" in said
    shards = build_image_shards(tmp_path / "shards", 8, size=64, channels=3)
    data = [f"data.train={shards}", "batch.micro_size=4096", "batch.global_size=32768"]
    plan_command(path, data, request(vocab_size=None, json=False, gpu="cpu"))
    said = " ".join(capsys.readouterr().out.split())
    assert "from data.train" in said and "does not fit: a rank needs" in said


def test_clusters_that_contradict_themselves() -> None:
    assert make_cluster("h100-80g", None, 4, None, None).size == 32
    assert make_cluster("a100-80g", 16, 4, None, 100).per_node == 4
    for arguments, message in (
        (("v100", 8, None, None, None), "known are a100-40g"),
        (("h100", 8, None, None, None), "did you mean 'h100-80g'"),
        (("h100-80g", 9, 2, None, None), "does not divide among --nodes 2"),
        (("h100-80g", 16, 4, 8, None), "4 nodes of 8 have 32"),
        (("h100-80g", 8, None, None, 100.0), "--network has no effect on one node of 8"),
    ):
        with pytest.raises(UserError, match=message):
            make_cluster(*arguments)
