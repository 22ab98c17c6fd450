"""Rules between keys: each is broken once, names values that are legal, and agrees with plain arithmetic."""

from pathlib import Path
from typing import Any

import pytest
from config_files import small_config, write_config
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config import derived
from pretrain.config.load import load_config
from pretrain.config.node import ConfigError
from pretrain.config.rule import PROCESSES, Setup
from pretrain.config.rules import violations
from pretrain.config.sections import GptConfig
from pretrain.gpt.kind import GPT

# rule -> changes of the small config, world size, a legal value of a key that must be suggested (or None)
ROTARY = {"model__position_embedding": "rotary"}
BROKEN: dict[str, tuple[dict[str, Any], int | None, tuple[str, float] | None]] = {
    "a database's options are ones that SQLite has": ({"tracking__uri": "sqlite:///a?x=1.db"}, None, None),
    "heads divide hidden": ({"model__num_attention_heads": 5}, None, ("model.num_attention_heads", 4)),
    "rotary head size is even": (
        {"model__num_attention_heads": 64, "model__position_embedding": "rotary"},
        None,
        ("model.num_attention_heads", 32),
    ),
    "query groups divide heads": ({"model__num_query_groups": 3}, None, ("model.num_query_groups", 2)),
    "tensor divides heads": ({"parallel__tensor": 8}, None, ("parallel.tensor", 4)),
    "tensor divides query groups": (
        {"parallel__tensor": 4, "model__num_query_groups": 2},
        None,
        ("parallel.tensor", 2),
    ),
    "tensor divides feed-forward": (
        {"parallel__tensor": 4, "model__ffn_hidden_size": 90},
        None,
        ("model.ffn_hidden_size", 92),
    ),
    "tensor divides padded vocabulary": (
        {"parallel__tensor": 4, "model__vocab_multiple": 6},
        None,
        ("model.vocab_multiple", 8),
    ),
    "layers fill the pipeline": ({"parallel__pipeline": 3}, None, ("model.num_layers", 3)),
    "virtual pipeline needs a pipeline": ({"parallel__virtual_pipeline": 2}, None, ("parallel.pipeline", 2)),
    "interleaved schedule needs whole groups of micro-batches": (
        {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2, "batch__global_size": 6},
        2,
        ("batch.global_size", 8),
    ),
    "world holds whole replicas": ({"parallel__tensor": 2}, 5, (PROCESSES, 4)),
    "batch divides into micro-batches": ({"batch__global_size": 9}, 2, ("batch.global_size", 8)),
    "sequence divides over context and sequence parallel ranks": (
        {"batch__sequence_length": 62, "parallel__context": 2},
        None,
        ("batch.sequence_length", 64),
    ),
    "an embedding is learnt anew beside weights that are not": (
        {"model__init_embeddings": "random"},
        None,
        None,
    ),
    "stages follow one another": (
        {
            "schedule__sequence_length": [
                {"until": 20, "sequence_length": 16},
                {"until": 10, "sequence_length": 32},
            ]
        },
        None,
        None,
    ),
    "sequences grow": ({"schedule__sequence_length": [{"until": 9, "sequence_length": 128}]}, None, None),
    "every stage has a legal batch": (
        {"schedule__sequence_length": [{"until": 9, "sequence_length": 32, "global_size": 9}]},
        2,
        None,
    ),
    "schedule.batch_size: stages follow one another": (
        {"schedule__batch_size": [{"until": 20, "global_size": 2}, {"until": 10, "global_size": 4}]},
        None,
        None,
    ),
    "schedule.batch_size: sequences grow": (
        {"schedule__batch_size": [{"until": 9, "global_size": 16}]},
        None,
        None,
    ),
    "schedule.batch_size: every stage has a legal batch": (
        {"schedule__batch_size": [{"until": 9, "global_size": 3}]},
        None,
        None,
    ),
    "stages end before the run": (
        {"schedule__sequence_length": [{"until": 100, "sequence_length": 32}]},
        1,
        ("run.steps", 101),
    ),
    "schedule.batch_size: stages end before the run": (
        {"schedule__batch_size": [{"until": 5, "global_size": 2}, {"until": 120, "global_size": 4}]},
        1,
        ("run.steps", 121),
    ),
    "one kind of stages": (
        {
            "schedule__batch_size": [{"until": 9, "global_size": 4}],
            "schedule__sequence_length": [{"until": 9, "sequence_length": 32}],
        },
        None,
        None,
    ),
    "a warm-up in tokens needs a decay in tokens": ({"schedule__warmup_tokens": 9}, None, None),
    "one length of the decay": (
        {"schedule__decay_tokens": 9, "schedule__decay_steps": 9},
        None,
        None,
    ),
    "a warm-up in the decay's unit": (
        {"schedule__decay_tokens": 9, "schedule__warmup_steps": 9},
        None,
        None,
    ),
    "only cosine and linear decays are counted in tokens": (
        {"schedule__decay_tokens": 9, "schedule__kind": "wsd"},
        None,
        None,
    ),
    "warm-up in tokens ends before the decay": (
        {"schedule__decay_tokens": 9, "schedule__warmup_tokens": 9},
        None,
        None,
    ),
    "warm-up ends before the decay": ({"schedule__warmup_steps": 100}, None, ("schedule.warmup_steps", 99)),
    "wsd decay fits into the run": (
        {"schedule__kind": "wsd", "schedule__decay_steps": 101},
        None,
        ("schedule.decay_steps", 100),
    ),
    "min_lr is below lr": ({"schedule__min_lr": 0.1}, None, ("schedule.min_lr", 0.0001)),
    "kept checkpoints are ones that are written": (
        {"checkpoint__every": 20, "checkpoint__keep_every": 50},
        None,
        ("checkpoint.keep_every", 60),
    ),
    "sequence parallelism needs tensor parallelism": ({"parallel__sequence": True}, None, None),
    "one model chunk is no virtual pipeline": ({"parallel__virtual_pipeline": 1}, None, None),
    "rotary_base needs rotary positions": ({"model__rotary_base": 1000}, None, None),
    "rotary_fraction needs rotary positions": ({"model__rotary_fraction": 0.5}, None, None),
    "rotary_scaling needs rotary positions": (
        {"model__rotary_scaling": "linear", "model__rotary_scaling_factor": 2.0},
        None,
        None,
    ),
    "rotary positions turn pairs": ({**ROTARY, "model__head_size": 9}, None, ("model.head_size", 10)),
    "a rotary factor needs a way of scaling": ({**ROTARY, "model__rotary_scaling_factor": 2.0}, None, None),
    "rotary scaling needs a factor": ({**ROTARY, "model__rotary_scaling": "linear"}, None, None),
    "scaling by turns needs an original length": (
        {**ROTARY, "model__rotary_scaling": "yarn", "model__rotary_scaling_factor": 2.0},
        None,
        None,
    ),
    "rotary_original_length is for scaling by turns": (
        {**ROTARY, "model__rotary_original_length": 32},
        None,
        None,
    ),
    "rotary_slow_turns is for scaling by turns": ({**ROTARY, "model__rotary_slow_turns": 2.0}, None, None),
    "rotary_fast_turns is for scaling by turns": ({**ROTARY, "model__rotary_fast_turns": 2.0}, None, None),
    "only yarn sharpens attention": ({**ROTARY, "model__rotary_attention_factor": 2.0}, None, None),
    "slow is slower than fast": (
        {**ROTARY, "model__rotary_scaling": "llama3", "model__rotary_slow_turns": 5.0},
        None,
        None,
    ),
    "a norm of all heads is RMSNorm": ({"model__qk_norm": "whole"}, None, None),
    "a zero-centered norm is RMSNorm": ({"model__zero_centered_norm": True}, None, None),
    "qkv_bias is for layers without biases": ({"model__qkv_bias": True}, None, None),
    "a pattern needs a window": ({"model__window_pattern": ["window"]}, None, None),
    "a window needs a layer": ({"model__window": 8, "model__window_pattern": ["full"]}, None, None),
    "a pattern fits into the layers": (
        {"model__window": 8, "model__window_pattern": ["window"] * 99},
        None,
        None,
    ),
    "a constant schedule has no min_lr": (
        {"schedule__kind": "constant", "schedule__min_lr": 0.0},
        None,
        None,
    ),
    "a constant schedule has no decay": (
        {"schedule__kind": "constant", "schedule__decay_steps": 10},
        None,
        None,
    ),
    "remote shards need a cache": ({"data__train": "s3://bucket/shards"}, None, None),
    "a cache needs remote shards": ({"data__cache_dir": "cache"}, None, None),
    "a bound needs a cache": ({"data__cache_bytes": 1000}, None, None),
    "one way of validating": ({"data__validation": "v", "data__validation_fraction": 0.1}, None, None),
    "validation has no weights": ({"data__validation": [{"path": "v", "weight": 1.0}]}, None, None),
    "one source has no weight": ({"data__train": [{"path": "a", "weight": 2.0}]}, None, None),
    "a training source stands once": ({"data__train": ["a", "b", "a/"]}, None, None),
    "a validation source stands once": ({"data__validation": ["v", "./v"]}, None, None),
    "validation data is not trained on": ({"data__validation": "data/small/"}, None, None),
    "validating needs data": ({"eval__every": 10}, None, None),
    "validating windows needs data": ({"eval__max_windows": 10}, None, None),
    "keeping checkpoints needs checkpoints": ({"checkpoint__keep_every": 10}, None, None),
    "asynchronous saving needs saves during the run": ({"checkpoint__async": True}, None, None),
    "max_skips needs skipping": ({"health__max_skips": 3}, None, None),
    "a spike window needs verdicts": ({"health__on_spike": "ignore", "health__spike_window": 8}, None, None),
    "a spike threshold needs verdicts": (
        {"health__on_spike": "ignore", "health__spike_threshold": 5.0},
        None,
        None,
    ),
    "max_rollbacks needs rollbacks": ({"health__max_rollbacks": 2}, None, None),
    "rolling back needs checkpoints": ({"health__on_spike": "rollback"}, None, None),
    "comparing replicas needs several ranks": ({"health__replica_check_every": 10}, 1, None),
    "a profile is of steps that the run has": ({"run__steps": 8, "train__profile": 5}, None, None),
    "MLflow takes a server or a database": ({"tracking__uri": "mlruns"}, None, None),
    "tasks per node are those of a job on CPUs": (
        {"slurm__gpus_per_node": 8, "slurm__tasks_per_node": 8},
        None,
        None,
    ),
    "an image is for a container": ({"slurm__container_image": "a.sif"}, None, None),
    "mounts are for a container": ({"slurm__container_mounts": ["/data"]}, None, None),
    "a chain is for jobs that are not requeued": ({"slurm__chain": 3}, None, None),
    "a container needs an image": ({"slurm__container": "pyxis"}, None, None),
    "the signal comes within the job": (
        {"slurm__time": "00:10:00", "slurm__signal_seconds": 600},
        None,
        None,
    ),
}

LEGAL: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({}, 4),
    ({"model__num_query_groups": 4}, None),
    ({**ROTARY, "model__head_size": 10, "model__num_attention_heads": 3}, None),
    ({**ROTARY, "model__head_size": 9, "model__rotary_fraction": 0.5}, None),
    ({"model__window": 10_000, "model__window_pattern": ["window", "full"]}, None),
    ({"parallel__tensor": 2, "parallel__sequence": True}, 2),
    ({"parallel__context": 2, "parallel__distributed_optimizer": True}, 2),
    ({"parallel__pipeline": 2, "parallel__virtual_pipeline": 2}, 4),
    ({"parallel__recompute": "selective"}, None),
    ({"eval__every": 1000, "data__validation_fraction": 0.5, "checkpoint__every": 1000}, None),
    ({"tracking__enabled": False, "tracking__uri": "http://localhost:5000"}, None),
    ({"tracking__uri": "sqlite:///mlflow.db"}, None),
    ({"tracking__uri": "postgresql+psycopg2://host/db"}, None),
    ({"tracking__uri": "databricks"}, None),
    ({"schedule__kind": "constant", "schedule__warmup_steps": 99}, None),
    ({"schedule__kind": "wsd", "schedule__warmup_steps": 90}, None),
    ({"schedule__decay_steps": 500, "schedule__warmup_steps": 100}, None),
    ({"health__max_skips": 3, "health__on_nonfinite": "skip"}, None),
    ({"health__on_spike": "rollback", "health__max_rollbacks": 1, "checkpoint__every": 10}, None),
    ({"health__spike_window": 16, "health__spike_threshold": 4.0, "health__replica_check_every": 0}, 2),
    ({"data__train": [{"path": "a", "weight": 2.0}, "b"], "data__validation": ["v", "w"]}, None),
    ({"checkpoint__every": 20, "checkpoint__keep_every": 40, "checkpoint__async": True}, None),
    ({"slurm__requeue": False, "slurm__chain": 3, "slurm__tasks_per_node": 4}, None),
    ({"slurm__container": "apptainer", "slurm__container_image": "a.sif"}, None),
    ({"slurm__time": "10", "slurm__signal_seconds": 599}, None),
]


def test_every_rule_has_a_case() -> None:
    assert set(BROKEN) == {rule.name for rule in GPT.rules}
    assert len({rule.name for rule in GPT.rules}) == len(GPT.rules)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_reported_and_its_suggestions_mend_it(name: str) -> None:
    changes, world, suggestion = BROKEN[name]
    config = small_config(**changes)
    found = {violation.rule: violation for violation in violations(config, world)}
    assert name in found
    violation = found[name]
    if suggestion:
        key, value = suggestion
        assert value in violation.suggestions[key]
        assert f"{key} " in violation.text
    check_suggestions(Setup(config, world))


@pytest.mark.parametrize(("changes", "world"), LEGAL, ids=str)
def test_what_is_legal_is_not_reported(changes: dict[str, Any], world: int | None) -> None:
    assert violations(small_config(**changes), world) == []


def test_all_broken_rules_are_reported_together_at_their_lines(tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "a.yaml",
        model__num_attention_heads=5,
        batch__sequence_length=63,
        parallel__context=4,
        parallel__sequence=True,
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["schedule.warmup_steps=200"], world_size=3)
    text = str(caught.value)
    assert text.startswith("5 problems in the config:\n")
    assert f"{path}:8: model.num_attention_heads: 5 heads do not divide model.hidden_size 64" in text
    assert f"{path}:12: batch.sequence_length: 63 tokens" in text
    assert f"{path}:19: parallel.sequence: has no effect with parallel.tensor 1" in text
    assert "command line: processes: 3 processes are not a multiple of tensor x pipeline x context" in text
    assert "command line: schedule.warmup_steps: a warm-up of 200 steps" in text


def test_a_legal_value_is_named_once(tmp_path: Path) -> None:
    """A warm-up of all steps has three remedies, two of which are the same here."""
    path = write_config(tmp_path / "config.yaml", run__steps=2, schedule={"warmup_steps": 2})
    with pytest.raises(ConfigError, match=r"run\.steps 3 or 4\)"):
        load_config(path)


SIZES = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 6])


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Small sizes, so that rules are kept and broken about equally often."""
    optional = st.none() | SIZES
    model = {
        "kind": "gpt",
        "num_layers": draw(st.integers(1, 24)),
        "hidden_size": draw(st.sampled_from([12, 24, 48, 64, 65, 96])),
        "num_attention_heads": draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12])),
        "num_query_groups": draw(st.none() | st.sampled_from([1, 2, 4])),
        "ffn_hidden_size": draw(st.none() | st.integers(1, 100)),
        "position_embedding": draw(st.sampled_from(["learned", "rotary"])),
        "vocab_multiple": draw(st.sampled_from([1, 6, 64, 128])),
    }
    batch = {
        "global_size": draw(st.integers(1, 40)),
        "micro_size": draw(SIZES),
        "sequence_length": draw(st.sampled_from([8, 12, 24, 48, 63, 64])),
    }
    parallel = {name: draw(SIZES) for name in ("tensor", "pipeline", "context")}
    parallel |= {"virtual_pipeline": draw(optional), "sequence": draw(st.booleans())}
    parallel |= {name: draw(st.booleans()) for name in ("distributed_optimizer", "overlap_grad_reduce")}
    schedule = {
        "kind": draw(st.sampled_from(["cosine", "linear", "constant", "wsd"])),
        "warmup_steps": draw(st.integers(0, 30)),
        "decay_steps": draw(st.none() | st.integers(1, 30)),
    }
    run = {"dir": "r", "steps": draw(st.integers(1, 40))}
    config = GptConfig.model_validate(
        {
            "run": run,
            "model": model,
            "batch": batch,
            "parallel": parallel,
            "schedule": schedule,
            "optimizer": {"lr": 1},
            "data": {"train": "d"},
        }
    )
    return Setup(config, draw(st.none() | st.integers(1, 48)))


def check_suggestions(setup: Setup) -> None:
    """Each suggested value mends its rule and breaks none that was kept; alone, it makes the config legal."""
    found = violations(setup.config, setup.world_size)
    broken = {violation.rule for violation in found}
    for violation in found:
        for key, values in violation.suggestions.items():
            for value in values:
                assert value != setup.value(key)
                changed = setup.replaced(key, value)
                mended = Setup(GptConfig.model_validate(dump(changed.config)), changed.world_size)
                now = {one.rule for one in violations(mended.config, mended.world_size)}
                assert violation.rule not in now
                assert now <= broken, f"{key} {value} breaks {now - broken}"


def dump(config: GptConfig) -> Any:
    return config.model_dump(by_alias=True, exclude_unset=True)


@settings(max_examples=200, deadline=None)
@given(setups())
def test_suggested_values_really_are_legal(setup: Setup) -> None:
    check_suggestions(setup)


@settings(max_examples=600, deadline=None)
@given(setups())
def test_the_rules_agree_with_plain_arithmetic(setup: Setup) -> None:
    assert (violations(setup.config, setup.world_size) == []) == works(setup.config, setup.world_size)


def works(config: GptConfig, world: int | None) -> bool:
    """Whether sizes divide, written down a second time without the rules."""
    model, batch, layout, schedule = config.model, config.batch, config.parallel, config.schedule
    tensor, pipeline, context = layout.tensor, layout.pipeline, layout.context
    groups = model.num_query_groups or model.num_attention_heads
    shares = [model.num_attention_heads, groups, derived.ffn_hidden_size(model), model.vocab_multiple]
    conditions = [
        model.hidden_size % model.num_attention_heads == 0,
        model.position_embedding == "learned" or (model.hidden_size / model.num_attention_heads) % 2 == 0,
        model.num_attention_heads % groups == 0,
        all(share % tensor == 0 for share in shares),
        model.num_layers % (pipeline * (layout.virtual_pipeline or 1)) == 0,
        layout.virtual_pipeline is None or (layout.virtual_pipeline > 1 and pipeline > 1),
        context == 1 or batch.sequence_length % (2 * context) == 0,
        not layout.sequence or (tensor > 1 and batch.sequence_length % (context * tensor) == 0),
        schedule.kind != "constant" or schedule.decay_steps is None,
    ]
    steps, warmup, decay = config.run.steps, schedule.warmup_steps, schedule.decay_steps
    if schedule.kind == "wsd":
        conditions.append(warmup + (decay or max(1, round(steps / 10))) <= steps)
    else:
        conditions.append(warmup < (steps if schedule.kind == "constant" else decay or steps))
    replicas = 1
    if world is not None:
        conditions.append(world % (tensor * pipeline * context) == 0)
        replicas = world // (tensor * pipeline * context) or 1
        if replicas * context == 1:
            conditions.append(not layout.distributed_optimizer and not layout.overlap_grad_reduce)
    micro_batches = batch.global_size / (batch.micro_size * replicas)
    conditions.append(micro_batches.is_integer())
    conditions.append(layout.virtual_pipeline is None or micro_batches % pipeline == 0)
    return all(conditions)
