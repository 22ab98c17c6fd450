"""Batches that grow during a run: what each step sees, what is counted, and that a resume is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bert_shards import bert_config, bert_tokenizer, build_bert_shards, prose
from config_files import small_config
from text_shards import build_shards

from data_tools.counts import counted
from pretrain.bert.data.text import BertTrainingData
from pretrain.config.resolved import config_to_yaml
from pretrain.config.resume import compatible
from pretrain.config.rules import violations
from pretrain.config.sections import TextConfig
from pretrain.config.stages import samples_until, stages, steps_until, tokens_until
from pretrain.gpt.data import TrainingData
from pretrain.megatron.rampup import RampupDataset, rampup_dataset
from pretrain.proofs.resume import verify_resume_command
from pretrain.training.schedule import learning_rate

STAGES = (
    {"until": 3, "sequence_length": 16, "global_size": 16, "micro_size": 4},
    {"until": 5, "sequence_length": 32},
)
TEXT = ["".join(chr(97 + (i * i + salt) % 26) for i in range(900)) for salt in range(12)]


def staged(**changes: Any) -> TextConfig:
    return small_config(**{"schedule__sequence_length": STAGES, **changes})


def feed_of(config: TextConfig) -> RampupDataset:
    return rampup_dataset(config, TrainingData.from_config(config))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_shards(tmp_path_factory.mktemp("stages") / "shards", TEXT))


def test_steps_tokens_and_samples_of_stages() -> None:
    config = staged()
    assert [(s.first, s.stop, s.batch.sequence_length) for s in stages(config)] == [
        (0, 3, 16),
        (3, 5, 32),
        (5, None, 64),
    ]
    assert [tokens_until(config, steps) for steps in (0, 2, 3, 4, 6)] == [0, 512, 768, 1024, 1792]
    assert [samples_until(config, steps) for steps in (0, 2, 3, 4, 6)] == [0, 32, 48, 56, 72]
    assert tokens_until(small_config(), 7) == 7 * 8 * 64


def test_each_stage_has_its_size_and_its_order(shards: str) -> None:
    data = feed_of(staged(data__train=({"path": shards},)))
    shapes = [[tuple(batch.tokens.shape) for batch in data.batches(step, 0, 0, 1)] for step in range(7)]
    assert shapes[:3] == [[(4, 16)] * 4] * 3 and shapes[3:5] == [[(2, 32)] * 4] * 2
    assert shapes[5:] == [[(2, 64)] * 4] * 2
    seen = [i for step in range(3) for batch in data.batches(step, 0, 0, 1) for i in batch.sample_ids]
    assert seen == list(range(48)) and data.samples(2, 0) == range(32, 48)
    assert [i for batch in data.batches(4, 0, 0, 1) for i in batch.sample_ids] == list(range(8, 16))
    assert [i for batch in data.batches(4, 16, 0, 1) for i in batch.sample_ids] == list(range(24, 32))
    assert data.feeds[-1] is not data.feeds[0] and data.fingerprint != data.feeds[-1].fingerprint
    plain = small_config(data__train=({"path": shards},))
    assert feed_of(plain).fingerprint == TrainingData.from_config(plain).fingerprint


def test_a_batch_that_grows_sees_new_samples(shards: str) -> None:
    """Two stages of one length and another batch size: neither begins with what the other began with."""
    config = small_config(
        data__train=({"path": shards},),
        schedule__sequence_length=({"until": 2, "sequence_length": 64, "global_size": 4},),
    )
    data = feed_of(config)
    first, second = data.batches(0, 0, 0, 1)[0], data.batches(2, 0, 0, 1)[0]
    assert not torch.equal(first.tokens, second.tokens)


def test_every_stage_has_an_order_of_its_own(shards: str) -> None:
    """Seeds of stages are fixed by how runs were trained that may be resumed: BLAKE2b of `7/stage/0`"""
    config = staged(data__train=({"path": shards},), run__seed=7)
    orders = [feed.order for feed in feed_of(config).feeds]  # type: ignore[attr-defined]
    assert [order.seed for order in orders] == [0x958871B4, 0x3EEF2A7B, 7]


RAMP = ({"until": 2, "global_size": 2}, {"until": 5, "global_size": 4})


def test_growing_batches_go_on_in_one_order(shards: str) -> None:
    """What is seen is what a run of equal batches sees, in the same order; layouts do not change it."""
    config = small_config(
        data__train=({"path": shards},), schedule__batch_size=RAMP, schedule__decay_tokens=10_000
    )
    data = feed_of(config)
    seen = [i for step in range(8) for batch in data.batches(step, 0, 0, 1) for i in batch.sample_ids]
    assert seen == list(range(2 * 2 + 3 * 4 + 3 * 8))
    assert [list(data.samples(step, 0)) for step in (1, 2)] == [[2, 3], [4, 5, 6, 7]]
    plain = feed_of(small_config(data__train=({"path": shards},)))
    assert torch.equal(data.batches(2, 0, 0, 1)[0].tokens, plain.batches(0, 0, 0, 1)[2].tokens)
    assert data.batches(2, 3, 0, 1)[0].sample_ids == (7, 8), "a jump is counted in samples"
    halves = [data.batches(5, 0, rank, 2)[0].sample_ids for rank in range(2)]
    assert halves == [(16, 17), (18, 19)]
    assert data.fingerprint != plain.fingerprint
    assert [steps_until(config, tokens) for tokens in (0, 1, 256, 257, 1024, 1025)] == [0, 1, 2, 3, 5, 6]


def test_the_rate_follows_tokens() -> None:
    """Half-way through the tokens the rate is half-way down, however many steps that took."""
    config = small_config(
        schedule__batch_size=RAMP,
        schedule__warmup_tokens=128,
        schedule__decay_tokens=128 + 2 * (128 + 768),
        schedule__min_lr=0.0,
    )
    rates = [learning_rate(config, step) for step in range(9)]
    assert rates[:2] == pytest.approx([1e-3, 1e-3]) and rates[5] == pytest.approx(5e-4)
    assert rates[8] == pytest.approx(0, abs=1e-4) and rates == sorted(rates, reverse=True)
    slow = small_config(schedule__warmup_tokens=5 * 512, schedule__decay_tokens=10_000)
    assert learning_rate(slow, 0) == pytest.approx(1e-3 / 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__batch_size": ({"until": 3, "global_size": 16},)}, "batches may grow, not shrink"),
        ({"schedule__batch_size": ({"until": 3, "global_size": 3},)}, "not a multiple of micro_size"),
        ({"schedule__batch_size": RAMP[::-1]}, "must end later"),
        ({"schedule__batch_size": RAMP, "schedule__sequence_length": STAGES}, "exclude each other"),
        ({"schedule__warmup_tokens": 5}, "no effect without schedule.decay_tokens"),
        ({"schedule__decay_tokens": 50, "schedule__decay_steps": 5}, "exclude each other"),
        ({"schedule__decay_tokens": 50, "schedule__warmup_steps": 5}, "give schedule.warmup_tokens"),
        ({"schedule__decay_tokens": 50, "schedule__kind": "constant"}, "set kind to cosine or linear"),
        ({"schedule__decay_tokens": 50, "schedule__warmup_tokens": 50}, "leaves nothing"),
    ],
)
def test_wrong_growth_is_refused(changes: dict[str, Any], message: str) -> None:
    assert any(message in found.text for found in violations(small_config(**changes), 1))


def test_no_stage_trains_on_what_is_held_out(shards: str) -> None:
    config = staged(data__train=({"path": shards},), data__validation_fraction=0.3)
    data = feed_of(config)
    assert len({feed.sources[0].stop for feed in data.feeds}) == 1  # type: ignore[attr-defined]


def test_bert_grows_too(tmp_path: Path) -> None:
    config = bert_config(build_bert_shards(tmp_path, prose()[:10], bert_tokenizer()), length=64, size=8)
    schedule = config.schedule.model_validate({"sequence_length": STAGES})
    config = config.model_copy(update={"schedule": schedule})
    data = rampup_dataset(config, BertTrainingData.from_config(config))
    assert data.batches(0, 0, 0, 1)[0].tokens.shape == (4, 16)
    assert data.batches(9, 0, 0, 1)[0].padding_mask.shape == (8, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"until": 9, "sequence_length": 16}, {"until": 9, "sequence_length": 32}], "must end later"),
        ([{"until": 9, "sequence_length": 128}], "is longer than that of batch, 64"),
        ([{"until": 9, "sequence_length": 64}], "until 9: has no effect"),
        (
            [{"until": 9, "sequence_length": 16, "global_size": 9}],
            "9 samples are not a multiple of micro_size",
        ),
        (
            [{"until": 9, "sequence_length": 16, "micro_size": 3}],
            "8 samples are not a multiple of micro_size",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(given: list[dict[str, int]], message: str) -> None:
    found = violations(small_config(schedule__sequence_length=given), 1)
    assert [violation.key for violation in found] == ["schedule.sequence_length"]
    assert message in found[0].text


def test_what_a_resume_may_change() -> None:
    other = [{**STAGES[0], "micro_size": 2}, STAGES[1]]
    later = [{**STAGES[0], "until": 4}, STAGES[1]]
    old, smaller, moved = (
        yaml.safe_load(config_to_yaml(staged(schedule__sequence_length=each)))
        for each in (STAGES, other, later)
    )
    assert compatible(old, smaller, [9]) == []
    assert len(compatible(old, moved, [9])) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("growth", "processes"),
    [
        (
            "kind: constant, sequence_length: [{until: 3, sequence_length: 16, global_size: 8}, "
            "{until: 5, sequence_length: 32}]",
            2,
        ),
        ("decay_tokens: 2000, batch_size: [{until: 3, global_size: 2}]", 1),
    ],
)
def test_resume_is_exact_across_stages(
    growth: str,
    processes: int,
    shards: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
run: {{dir: {tmp_path}/run, steps: 100}}
model: {{kind: gpt, num_layers: 2, hidden_size: 32, num_attention_heads: 2, dropout: 0.1}}
batch: {{global_size: 4, micro_size: 2, sequence_length: 64}}
optimizer: {{lr: 1e-3}}
schedule: {{{growth}}}
data: {{train: {shards}}}
tracking: {{enabled: false}}
"""
    )
    verify_resume_command(str(config), processes, 4, None, [])
    assert f"resume is exact: 8 steps on {counted(processes, 'process')}," in capfd.readouterr().out
