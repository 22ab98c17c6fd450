"""What a config says and its run does not come to."""

from pathlib import Path
from typing import Any

import pytest
from config_files import SHIPPED, small_config, write_config
from gan_configs import gan_config

from pretrain.commands.check import check_command
from pretrain.config.load import read_config
from pretrain.config.rules import violations
from pretrain.config.unreached import unreached

BATCH_TOKENS = 8 * 64
NOTES: list[tuple[dict[str, Any], str, str]] = [
    ({"checkpoint__every": 101}, "checkpoint.every", "101 is beyond run.steps 100: the end of the run alone"),
    (
        {"checkpoint__every": 50, "checkpoint__keep_every": 150},
        "checkpoint.keep_every",
        "150 is beyond run.steps 100: no checkpoint is kept",
    ),
    (
        {"eval__every": 101, "data__validation_fraction": 0.1},
        "eval.every",
        "101 is beyond run.steps 100: the run validates at its end alone",
    ),
    ({"health__replica_check_every": 101}, "health.replica_check_every", "101 is beyond run.steps 100"),
    (
        {"schedule__decay_steps": 101},
        "schedule.decay_steps",
        "the run ends after 100 steps of a decay over 101: the rate does not reach 0.0001",
    ),
    (
        {"schedule__warmup_steps": 100, "schedule__decay_steps": 500},
        "schedule.warmup_steps",
        "the run ends after 100 steps of a warm-up over 100, and no decay begins",
    ),
    (
        {"schedule__decay_tokens": 100 * BATCH_TOKENS + 1},
        "schedule.decay_tokens",
        "the run ends after 51,200 tokens of a decay over 51,201: the rate does not reach 0.0001",
    ),
    (
        {
            "schedule__warmup_tokens": 100 * BATCH_TOKENS,
            "schedule__decay_tokens": 10**6,
        },
        "schedule.warmup_tokens",
        "the run ends after 51,200 tokens of a warm-up over 51,200, and no decay begins",
    ),
    (
        {"health__spike_window": 100},
        "health.spike_window",
        "the first 100 steps have no verdict, and the run has 100: no loss is judged a spike",
    ),
    (
        {"run__steps": 64, "health__on_spike": "rollback", "checkpoint__every": 10},
        "health.spike_window",
        "the first 64 steps have no verdict, and the run has 64",
    ),
]
REACHED: list[dict[str, Any]] = [
    {},
    {"checkpoint__every": 100, "checkpoint__keep_every": 100, "health__replica_check_every": 100},
    {"eval__every": 100, "data__validation_fraction": 0.1},
    {"schedule__decay_steps": 100, "schedule__warmup_steps": 99},
    {"schedule__decay_tokens": 100 * BATCH_TOKENS, "schedule__warmup_tokens": 99 * BATCH_TOKENS},
    {"health__spike_window": 99},
    {"run__steps": 65, "health__on_spike": "rollback", "checkpoint__every": 10},
    {"run__steps": 20},
    {"schedule__kind": "wsd", "schedule__decay_steps": 100},
    {"schedule__sequence_length": [{"until": 99, "sequence_length": 32}]},
]


@pytest.mark.parametrize(("changes", "key", "text"), NOTES)
def test_what_is_not_reached_is_told(changes: dict[str, Any], key: str, text: str) -> None:
    config = small_config(**changes)
    assert violations(config, None) == []
    ((found, said),) = unreached(config)
    assert found == key and said.startswith(text)


@pytest.mark.parametrize("changes", REACHED, ids=str)
def test_what_is_reached_is_not(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    assert violations(config, None) == [] and list(unreached(config)) == []


def test_a_game_of_few_steps() -> None:
    """The average's decay after N steps is N / (N + 9) at most: 0.9 takes 81 steps."""
    assert list(unreached(gan_config(run__steps=81, model__ema_decay=0.9))) == []
    ((key, text),) = unreached(gan_config(run__steps=80, model__ema_decay=0.9))
    assert key == "model.ema_decay" and "does not reach 0.9 by step 80: 0.8989 there" in text
    lazy = {"model__ema_decay": 0.0, "loss__r1": 1.0, "loss__discriminator_steps": 2}
    assert list(unreached(gan_config(run__steps=8, loss__penalty_every=15, **lazy))) == []
    ((key, text),) = unreached(gan_config(run__steps=8, loss__penalty_every=16, **lazy))
    assert key == "loss.penalty_every" and text.startswith(
        "16 is no less than the 16 updates of D in the run"
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_reach_what_they_say(path: Path) -> None:
    """But the average of the smallest GAN, whose run is short, and a schedule that its authors cut short."""
    keys = [key for key, _ in unreached(read_config(str(path)).config)]
    short = {"gan/quickstart.yaml": ["model.ema_decay"], "gpt/olmo2-7b.yaml": ["schedule.decay_steps"]}
    assert keys == short.get("/".join(path.parts[-2:]), [])


def test_check_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_command(write_config(tmp_path / "a.yaml", checkpoint__every=101), [], None, show=False, data=False)
    note = "note: checkpoint.every: 101 is beyond run.steps 100: the end of the run alone is saved"
    assert note in capsys.readouterr().out.splitlines()
