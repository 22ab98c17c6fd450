"""Rules of a GAN: each is broken once, says why, and what it suggests is legal."""

from typing import Any

import pytest
from gan_configs import gan_config

from pretrain.config.rule import PROCESSES, Setup
from pretrain.config.rules import gan, violations
from pretrain.gan.kind import GAN

# rule -> changes of the small config, world size, a legal value of a key that must be suggested (or None),
# words of the message
BROKEN: dict[str, tuple[dict[str, Any], int | None, tuple[str, float] | None, str]] = {
    "image sizes": ({"model__image_size": 24}, None, ("model.image_size", 16), "16, 32, 64, 128 or 256"),
    "widths fit": ({"model__max_channels": 2}, None, None, "less than generator_channels 4"),
    "an mlp has one width": (
        {"model__architecture": "mlp", "model__max_channels": 64},
        None,
        None,
        "has no effect with architecture mlp",
    ),
    "modern networks have no normalisation": (
        {"model__architecture": "modern", "model__batch_norm": True},
        None,
        None,
        "without normalisation",
    ),
    "batch norm sees the whole batch": (
        {"model__batch_norm": True, "batch__micro_size": 2},
        2,
        None,
        "a step is one micro-batch",
    ),
    "batch norm needs a batch": (
        {"model__batch_norm": True, "batch__global_size": 1},
        1,
        None,
        "one image has no statistics",
    ),
    "micro-batches fill the batch": (
        {"batch__micro_size": 3},
        2,
        ("batch.global_size", 6),
        "8 is not a multiple of 6",
    ),
    "no double backward at stage 3": (
        {"parallel__discriminator_stage": 3, "loss__r1": 1.0, "loss__r2": 1.0},
        None,
        ("parallel.discriminator_stage", 2),
        "3 cannot train with loss.r1 and loss.r2: a penalty is differentiated a second time",
    ),
    "bf16 needs ZeRO": (
        {"precision": "bf16", "parallel__generator_stage": 1},
        None,
        None,
        "would keep no fp32 weights",
    ),
    "offload needs ZeRO": (
        {"parallel__offload_optimizer": True, "parallel__generator_stage": 1},
        None,
        None,
        "no effect at stage 0",
    ),
    "wasserstein needs a Lipschitz bound": (
        {"loss__kind": "wasserstein"},
        None,
        None,
        "loss.gradient_penalty (10 is usual)",
    ),
    "penalty_every needs a penalty": (
        {"loss__penalty_every": 4},
        None,
        None,
        "has no effect without loss.r1",
    ),
    "each augmentation once": (
        {"loss__augment": ["color", "color"]},
        None,
        None,
        "names one twice",
    ),
}
LEGAL: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({"parallel__generator_stage": 3, "parallel__discriminator_stage": 2, "loss__r1": 1.0}, 2),
    ({"parallel__generator_stage": 3, "parallel__discriminator_stage": 3}, 2),
    ({"loss__kind": "wasserstein", "model__spectral_norm": True}, 1),
    ({"model__batch_norm": True, "batch__micro_size": 4}, 2),
    ({"precision": "bf16", "parallel__generator_stage": 1, "parallel__discriminator_stage": 3}, 1),
    ({"loss__augment": "color"}, 1),
]


def test_remote_shards_have_the_rules_of_tokens() -> None:
    def broken(**data: Any) -> list[str]:
        return [found.rule for found in violations(gan_config(data=data), None)]

    assert broken(train="s3://bucket/images", cache_dir="/cache", cache_bytes=9) == []
    assert broken(train="s3://bucket/images") == ["remote shards need a cache"]
    assert broken(train="images", cache_dir="/cache") == ["a cache needs remote shards"]
    assert broken(train="images", cache_bytes=9) == ["a bound needs a cache"]


def test_every_rule_has_a_case() -> None:
    assert set(BROKEN) == {rule.name for rule in gan.RULES}
    assert len({rule.name for rule in GAN.rules}) == len(GAN.rules)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_reported_and_its_suggestions_mend_it(name: str) -> None:
    changes, world, suggestion, words = BROKEN[name]
    setup = Setup(gan_config(**changes), world)
    violation = {found.rule: found for found in violations(setup.config, world)}[name]
    assert words in violation.message
    if suggestion:
        assert suggestion[1] in violation.suggestions[suggestion[0]]
    for key, values in violation.suggestions.items():
        for value in values:
            mended = setup.replaced(key, value)
            assert name not in {found.rule for found in violations(mended.config, mended.world_size)}, key


@pytest.mark.parametrize(("changes", "world"), LEGAL, ids=str)
def test_what_is_legal_is_not_reported(changes: dict[str, Any], world: int | None) -> None:
    assert violations(gan_config(**changes), world) == []


def test_processes_are_suggested_where_the_batch_is_fixed() -> None:
    (violation,) = violations(gan_config(), 3)
    assert violation.suggestions[PROCESSES] == (1, 2, 4)
