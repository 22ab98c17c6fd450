"""The learning rate of every step against tables that were worked out by hand."""

from typing import Any

import pytest
from config_files import small_config

from pretrain.training.schedule import learning_rate

# Half-way down a cosine is a half; at a quarter it is (1 + 1/sqrt 2) / 2, at three quarters the rest.
HIGH, LOW = 0.85355339, 0.14644661
TABLES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({"kind": "constant"}, [8, 8, 8, 8]),
    "constant after a warm-up": ({"kind": "constant", "warmup_steps": 4}, [2, 4, 6, 8, 8, 8]),
    "linear": ({"kind": "linear", "min_lr": 0.0}, [8, 7.2, 6.4, 5.6, 4.8, 4, 3.2, 2.4, 1.6, 0.8, 0, 0]),
    "linear to a tenth of the peak": (
        {"kind": "linear", "decay_steps": 4},
        [8, 6.2, 4.4, 2.6, 0.8, 0.8],
    ),
    "linear after a warm-up": (
        {"kind": "linear", "warmup_steps": 2, "min_lr": 0.0},
        [4, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0],
    ),
    "linear up to a step": (
        {"kind": "linear", "warmup_steps": 2, "min_lr": 2.0, "decay_steps": 5},
        [4, 8, 8, 6, 4, 2, 2, 2],
    ),
    "cosine": ({"decay_steps": 4, "min_lr": 0.0}, [8, 8 * HIGH, 4, 8 * LOW, 0, 0]),
    "cosine to a tenth of the peak": (
        {"warmup_steps": 6},  # of run.steps 10
        [8 / 6, 16 / 6, 4, 32 / 6, 40 / 6, 8, 8, 0.8 + 7.2 * HIGH, 4.4, 0.8 + 7.2 * LOW, 0.8, 0.8],
    ),
    "cosine after a warm-up": (
        {"warmup_steps": 3, "decay_steps": 7, "min_lr": 1.0},
        [8 / 3, 16 / 3, 8, 8, 1 + 7 * HIGH, 4.5, 1 + 7 * LOW, 1, 1],
    ),
    "wsd": (
        {"kind": "wsd", "warmup_steps": 2, "decay_steps": 4, "min_lr": 2.0},
        [4, 8, 8, 8, 8, 8, 8, 6.5, 5, 3.5, 2, 2],
    ),
    "wsd over a tenth of the steps": ({"kind": "wsd", "min_lr": 0.0}, [8] * 10 + [0, 0]),
    # 512 tokens a step; the rate is that of a step's first token, in a warm-up that of its last.
    "linear by tokens": (
        {"kind": "linear", "warmup_tokens": 1024, "decay_tokens": 3072, "min_lr": 0.0},
        [4, 8, 8, 6, 4, 2, 0, 0],
    ),
    "cosine by tokens": (
        {"warmup_tokens": 512, "decay_tokens": 2560, "min_lr": 0.0},
        [8, 8, 8 * HIGH, 4, 8 * LOW, 0, 0],
    ),
    # 128, 128, 256, 256, 256, then 512 tokens a step.
    "linear by tokens of growing batches": (
        {
            "kind": "linear",
            "batch_size": [{"until": 2, "global_size": 2}, {"until": 5, "global_size": 4}],
            "warmup_tokens": 256,
            "decay_tokens": 1280,
            "min_lr": 0.0,
        },
        [4, 8, 8, 6, 4, 2, 0, 0],
    ),
    "a warm-up that ends within a step": (
        {"kind": "linear", "warmup_tokens": 768, "decay_tokens": 2816, "min_lr": 0.0},
        [8 * 512 / 768, 8, 7, 5, 3, 1, 0],  # 256 of 2048 tokens down at the third step, then 512 more each
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_rate_of_every_step(name: str) -> None:
    schedule, expected = TABLES[name]
    config = small_config(run__steps=10, optimizer__lr=8.0, schedule=schedule)
    rates = [learning_rate(config, step) for step in range(len(expected))]
    assert rates == pytest.approx(expected, rel=1e-7, abs=1e-7)
