"""Numbers that follow from a config: hand-computed cases, and parameter counts against the real model."""

import subprocess
import sys

import pytest
from config_files import small_config

from pretrain.config import derived

COUNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from config_files import small_config
from pretrain.config.derived import count_parameters, padded_vocab_size
from pretrain.distributed.world import init_distributed
from pretrain.megatron.parallel_dims import build_parallel_dims
from pretrain.gpt.model import build_gpt
llama = dict(model__bias=False, model__activation="swiglu", model__normalization="rmsnorm",
             model__position_embedding="rotary", model__num_query_groups=2, model__tie_embeddings=False)
cases = [{}, llama, dict(model__activation="swiglu", model__ffn_hidden_size=100), dict(model__bias=False)]
with init_distributed() as world:
    layout = build_parallel_dims(world, small_config().parallel)
    for changes in cases:
        config = small_config(**changes)
        (model,), _ = build_gpt(config, layout, 1000)
        rows = padded_vocab_size(1000, config.model.vocab_multiple)
        counted = count_parameters(config, rows).total
        print(json.dumps([sum(part.numel() for part in model.parameters()), counted]))
"""


@pytest.mark.slow
def test_parameters_by_formula_are_those_of_the_model() -> None:
    tests = str(__file__).rsplit("/", 2)[0]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNT, tests], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pairs = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(pairs) == 4
    for pair in pairs:
        real, counted = pair.strip("[]").split(", ")
        assert real == counted


def test_gpt2_small_has_its_well_known_size() -> None:
    config = small_config(
        model__num_layers=12,
        model__hidden_size=768,
        model__num_attention_heads=12,
        batch__sequence_length=1024,
    )
    assert derived.count_parameters(config, 50257).total == 124_439_808


def test_defaults_that_depend_on_other_keys() -> None:
    plain = small_config()
    assert derived.ffn_hidden_size(plain.model) == 256
    assert derived.query_groups(plain.model) == 4
    assert derived.min_lr(plain) == pytest.approx(1e-4)
    assert derived.decay_steps(plain) == 100
    assert derived.max_skips(plain) == 10
    assert (derived.spike_window(plain), derived.spike_threshold(plain)) == (64, 10)
    assert derived.spike_window(small_config(health__on_spike="ignore")) == 0
    assert derived.max_rollbacks(plain) == 3
    assert derived.decay_steps(small_config(schedule__kind="wsd")) == 10
    assert derived.decay_steps(small_config(schedule__kind="wsd", run__steps=3)) == 1
    assert derived.ffn_hidden_size(small_config(model__activation="swiglu").model) == 192
    assert derived.ffn_hidden_size(small_config(model__ffn_hidden_size=7).model) == 7
    assert derived.min_lr(small_config(schedule__min_lr=0.0)) == 0.0


def test_sizes_of_a_layout() -> None:
    config = small_config(parallel__tensor=2, parallel__context=2)
    assert config.replica_ranks == 4
    assert [derived.data_parallel_size(config, world) for world in (2, 4, 6, 8)] == [None, 1, None, 2]
    assert [derived.micro_batches(config, replicas) for replicas in (1, 2, 3)] == [4, 2, None]
    assert [derived.padded_vocab_size(size, 128) for size in (1, 128, 129)] == [128, 128, 256]
