"""Where a number that is not finite was planted in a CNN, an RNN or a GAN is what the verdict names.

Cases of one world size run one after another in the same processes, since starting them costs most.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from gan_configs import gan_tree
from image_shards import build_image_shards
from ranks import run_ranks
from text_shards import build_shards

WORKER = Path(__file__).with_name("places_worker.py")
SIZES = (1, 2)
CNN = {
    "model": {"kind": "cnn", "width": 4, "stages": 2, "features": 8},
    "batch": {"global_size": 8, "micro_size": 2},
}
RNN = {
    "model": {"kind": "rnn", "cell": "lstm", "num_layers": 2, "hidden_size": 16, "dropout": 0.1},
    "batch": {"global_size": 8, "micro_size": 2, "sequence_length": 16},
}
STEP = "step 3 (samples 16 to 23): "
Lines = list[str]
Case = tuple[dict[str, Any], dict[str, Any], dict[int, Lines]]


def gan(**changes: Any) -> dict[str, Any]:
    tree = gan_tree(**changes)
    return {name: tree[name] for name in tree if name not in ("run", "data")}


def staged(stage: int) -> dict[str, int]:
    return {"parallel__generator_stage": stage, "parallel__discriminator_stage": stage}


def at(rank: int, what: str, samples: str, micro_batch: int = 0) -> str:
    return f"rank {rank}: first {what} in micro-batch {micro_batch}, {samples}"


def weight(name: str) -> dict[int, Lines]:
    """Of a model that every rank holds whole, on rank 0 of one and on rank 1 of two."""
    said = f"weight {name} holds 1 element that is not finite"
    return {1: [f"rank 0: {said}"], 2: [f"rank 1: {said}"]}


def last(fault: dict[str, Any]) -> dict[str, Any]:
    """A fault of the last rank from step 2, counted from 0."""
    return {"step": 2, "last": True, **fault}


AGAIN = "computed again from the same weights and samples, all of it is finite: a transient fault"
SAME_AGAIN = {1: [AGAIN], 2: [AGAIN]}
CASES: dict[str, Case] = {
    "cnn weight": (CNN, last({"kind": "weight", "tensor": "stem.2.weight"}), weight("stem.2.weight")),
    "cnn activation": (
        CNN,
        last({"kind": "activation", "tensor": "stem.1", "micro_batch": 1, "micro_batches": {1: 4, 2: 2}}),
        {
            1: [at(0, "output of stem.1", "samples 18, 19", 1)],
            2: [at(1, "output of stem.1", "samples 22, 23", 1)],
        },
    ),
    "cnn gradient": (
        CNN,
        last({"kind": "gradient", "tensor": "embed.bias"}),
        {
            1: [at(0, "gradient of embed.bias", f"samples {16 + 2 * n}, {17 + 2 * n}", n) for n in range(4)],
            2: [at(1, "gradient of embed.bias", "samples 18, 19"), "samples 22, 23"],
        },
    ),
    "cnn image": (
        CNN,
        {"kind": "image", "step": 2, "sample": 22},
        {
            1: [at(0, "output of stem.0", "samples 22, 23", 3)],
            2: [at(1, "output of stem.0", "samples 22, 23", 1)],
        },
    ),
    "cnn transient": (
        CNN,
        last({"kind": "gradient", "tensor": "embed.bias", "once": True}),
        SAME_AGAIN,
    ),
    "cnn sum": (
        CNN,
        {"kind": "gradient", "step": 2, "tensor": "embed.bias", "value": "1e38"},
        {
            1: ["rank 0: each rank's own gradients are finite, their sum over ranks", "is not: embed.bias"],
            2: ["ranks 0, 1: each rank's own gradients are finite, their sum", "is not: embed.bias"],
        },
    ),
    "rnn weight": (RNN, last({"kind": "weight", "tensor": "embedding"}), weight("embedding")),
    "rnn activation": (
        RNN,
        last({"kind": "activation", "tensor": "layers.1", "micro_batch": 1, "micro_batches": {1: 4, 2: 2}}),
        {
            1: [at(0, "output of layers.1", "samples 18, 19", 1)],
            2: [at(1, "output of layers.1", "samples 22, 23", 1)],
        },
    ),
    "rnn carried": (
        RNN,
        last({"kind": "carried", "micro_batch": 1}),
        {
            1: [at(0, "carried state", "samples 18, 19", 1)],
            2: [at(1, "carried state", "samples 22, 23", 1)],
        },
    ),
    "rnn gradient": (
        RNN,
        last({"kind": "gradient", "tensor": "layers.0.hidden_weight"}),
        {
            1: [at(0, "gradient of layers.0.hidden_weight", "samples 16, 17")],
            2: [at(1, "gradient of layers.0.hidden_weight", "samples 18, 19")],
        },
    ),
    "gan image": (
        gan(),
        {"kind": "image", "step": 2, "sample": 22},
        {
            1: [
                "update 3: loss_d is nan on rank 0; ",
                at(0, "output of discriminator.first", "samples 16 to 23"),
            ],
            2: [
                "update 3: loss_d is nan on rank 1; ",
                at(1, "output of discriminator.first", "samples 20 to 23"),
            ],
        },
    ),
    "gan normalised": (
        gan(model__batch_norm=True),
        last({"kind": "activation", "tensor": "generator.first"}),
        {
            1: [
                "update 3: loss_d is nan on rank 0; ",
                at(0, "output of generator.first", "samples 16 to 23"),
            ],
            # The other rank has it from there, by the statistics of the batch.
            2: [
                "update 3: loss_d is nan on ranks 0, 1; ",
                at(1, "output of generator.first", "samples 20 to 23"),
            ],
        },
    ),
    "gan generator": (
        gan(),
        last({"kind": "activation", "tensor": "generator.ups.1", "learning": True}),
        {
            1: [
                "update 3: loss_g is nan on rank 0; ",
                "rank 0: first output of generator.ups.1 in micro-batch 0",
            ],
            2: [
                "update 3: loss_g is nan on rank 1; ",
                "rank 1: first output of generator.ups.1 in micro-batch 0",
            ],
        },
    ),
    "gan conditional": (
        gan(model__conditional=True, batch__micro_size=2),
        last({"kind": "activation", "tensor": "generator.ups.1", "learning": True}),
        {
            1: [
                at(0, "output of generator.ups.1", "samples 16, 17"),
                at(0, "output of generator.ups.1", "samples 18, 19", 1),
            ],
            2: [
                at(1, "output of generator.ups.1", "samples 18, 19"),
                at(1, "output of generator.ups.1", "samples 22, 23", 1),
            ],
        },
    ),
    "gan transient": (
        gan(**staged(1)),
        last({"kind": "gradient", "tensor": "discriminator.first.bias", "once": True}),
        SAME_AGAIN,
    ),
    "gan bf16": (
        gan(**staged(1), precision="bf16"),
        last({"kind": "activation", "tensor": "discriminator.downs.0"}),
        {
            1: [at(0, "output of discriminator.downs.0", "samples 16 to 23")],
            2: [at(1, "output of discriminator.downs.0", "samples 20 to 23")],
        },
    ),
}
for stage in range(4):
    GENERATOR = "the generator's gradient is not finite; its weights were not touched"
    CASES[f"gan gradient, stage {stage}"] = (
        gan(**staged(stage)),
        last({"kind": "gradient", "tensor": "generator.out.weight"}),
        {
            1: [f"update 3: {GENERATOR}", "rank 0: first gradient of generator.out.weight in micro-batch 0"],
            2: [f"update 3: {GENERATOR}", "rank 1: first gradient of generator.out.weight in micro-batch 0"],
        },
    )
    CASES[f"gan activation, stage {stage}"] = (
        gan(**staged(stage)),
        last({"kind": "activation", "tensor": "discriminator.downs.0"}),
        {
            1: [at(0, "output of discriminator.downs.0", "samples 16 to 23")],
            2: [at(1, "output of discriminator.downs.0", "samples 20 to 23")],
        },
    )
    # At stages 1 and 2 all ranks compute with what one of them updates.
    holders = {0: "rank 1", 3: "rank 1"}.get(stage, "ranks 0, 1")
    NAMED = "weight discriminator.head.linear.weight holds 1 element that is not finite"
    CASES[f"gan weight, stage {stage}"] = (
        gan(**staged(stage)),
        last({"kind": "weight", "tensor": "discriminator.head.linear.weight"}),
        {1: [f"rank 0: {NAMED}"], 2: [f"{holders}: {NAMED}"]},
    )
GOES_ON = {f"{name} goes on": tree for name, tree in (("cnn", CNN), ("rnn", RNN))}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SIZES)
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    size = request.param
    folder = tmp_path_factory.mktemp(f"places-{size}")
    build_shards(folder / "rnn", [f"{n} bottles of {'beer ' * (n % 7)}. " * 9 for n in range(60)])
    build_image_shards(folder / "cnn", 24)
    build_image_shards(folder / "gan", 24, 16)
    asked = {}

    def ask(name: str, tree: dict[str, Any], fault: dict[str, Any], **more: Any) -> None:
        if fault.pop("last", False):
            fault["rank"] = size - 1
        if isinstance(fault.get("micro_batches"), dict):
            fault["micro_batches"] = fault["micro_batches"][size]
        tree = {
            "run": {"dir": str(folder), "steps": 9, "seed": 3},
            "optimizer": {"lr": 1e-3},
            "data": {"train": str(folder / tree["model"]["kind"])},
            **tree,
        }
        asked[name] = {"tree": tree, "fault": fault, **more}

    for name, (tree, fault, _) in CASES.items():
        ask(name, tree, dict(fault))
    for name, tree in GOES_ON.items():
        module = {"cnn": "stem.1", "rnn": "layers.0"}[tree["model"]["kind"]]
        gradient = {"kind": "gradient", "step": 1, "tensor": {"stem.1": "head.bias"}.get(module, "embedding")}
        for without_replay in (False, True):
            ask(
                f"{name}, {without_replay}",
                {**tree, "health": {"on_nonfinite": "skip"}},
                last(gradient | {"step": 1, "once": True}),
                without_replay=without_replay,
            )
    done = run_ranks(WORKER, size, {"output": str(folder), "cases": asked})
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.parametrize("name", CASES)
def test_the_place_is_named(outcomes: list[dict[str, Any]], name: str) -> None:
    message = outcomes[0][name]["message"]
    assert all(each[name]["message"] == message for each in outcomes)
    if not name.startswith("gan"):
        assert message.startswith(STEP)
    assert " weights were not touched\n  " in message
    for words in CASES[name][2][len(outcomes)]:
        assert words in message


@pytest.mark.parametrize("name", GOES_ON)
def test_a_replay_leaves_nothing_behind(outcomes: list[dict[str, Any]], name: str) -> None:
    """A run that skips the update goes on as if nobody had looked, dropout and carried state too."""
    for each in outcomes:
        assert each[f"{name}, False"] == each[f"{name}, True"]
        assert each[f"{name}, False"]["message"] == ""
