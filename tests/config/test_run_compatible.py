"""Which keys may change when a run is resumed: every key of every kind, one by one.

The verdicts below are written out. A key of the schema that has none fails, and so does a row of the table
that decides about no key.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from pretrain.config import resume as table
from pretrain.config.node import dotted
from pretrain.config.resolved import config_to_yaml
from pretrain.config.resume import rule_for, said
from pretrain.config.rules import violations
from pretrain.config.schema import is_list, keys_of, leaf_keys, section_of
from pretrain.config.sections import Config, GptConfig, Section
from pretrain.config.sections.resume import Resume
from pretrain.kinds import RECORDS, kind_named
from pretrain.training.schedule import learning_rate


def words(text: str) -> list[str]:
    return text.split()


MAY = words("""
run.dir run.resume model.init_from batch.micro_size
parallel.tensor parallel.pipeline parallel.virtual_pipeline parallel.context parallel.sequence
parallel.distributed_optimizer parallel.overlap_grad_reduce parallel.recompute
parallel.generator_stage parallel.discriminator_stage parallel.offload_optimizer
schedule.sequence_length.0.micro_size
data.train data.train.0.path data.validation.0 data.tokenizer data.chat_template
data.cache_dir data.cache_bytes
train.profile
checkpoint.every checkpoint.keep_last checkpoint.keep_every checkpoint.async checkpoint.max_failures
eval.every eval.samples
tracking.enabled tracking.uri tracking.experiment
health.hang_timeout health.join_timeout health.replica_check_every health.on_nonfinite health.max_skips
health.on_spike health.spike_window health.spike_threshold health.max_rollbacks health.on_collapse
slurm.partition slurm.account slurm.qos slurm.nodes slurm.gpus_per_node slurm.tasks_per_node
slurm.cpus_per_task slurm.memory slurm.exclusive slurm.time slurm.signal_seconds slurm.constraint
slurm.exclude slurm.comment slurm.directives.0 slurm.modules.0 slurm.environment.0 slurm.python
slurm.container slurm.container_image slurm.container_mounts.0 slurm.requeue slurm.chain slurm.max_restarts
slurm.preflight
""")
MUST_AGREE = words("""
run.seed
model.kind model.num_layers model.hidden_size model.num_attention_heads model.num_query_groups
model.ffn_hidden_size model.position_embedding model.rotary_base model.normalization model.norm_epsilon
model.scale_embeddings model.head_size model.qkv_bias model.qk_norm model.rotary_fraction model.rotary_scaling
model.rotary_scaling_factor model.rotary_original_length model.rotary_slow_turns model.rotary_fast_turns
model.rotary_attention_factor model.zero_centered_norm model.window model.window_pattern.0
model.attention_scale
model.attention_softcap model.logit_softcap model.z_loss
model.norm_position model.activation model.bias model.tie_embeddings model.dropout model.init_std
model.linear_init_std model.vocab_multiple model.init model.init_embeddings
model.width model.stages model.features model.cell
model.architecture model.image_size model.latent_size model.generator_channels model.discriminator_channels
model.max_channels model.conditional model.batch_norm model.spectral_norm model.ema_decay
batch.global_size batch.sequence_length
optimizer.kind optimizer.lr optimizer.beta1 optimizer.beta2 optimizer.eps optimizer.weight_decay
optimizer.clip_grad optimizer.discriminator_lr
schedule.kind schedule.warmup_steps schedule.min_lr schedule.warmup_tokens schedule.decay_tokens
schedule.sequence_length.0.until schedule.sequence_length.0.sequence_length
schedule.sequence_length.0.global_size schedule.batch_size.0.until schedule.batch_size.0.global_size
loss.kind loss.discriminator_steps loss.gradient_penalty loss.r1 loss.r2 loss.penalty_every loss.augment.0
data.train.0.weight data.validation_fraction data.reset_at_document_end
data.shift data.nsp data.mask_probability data.masking data.max_span data.short_sequence_probability
data.text data.text_pair data.label data.labels.0 data.word_column data.label_column
data.prompt data.response data.messages data.too_long data.packing
precision eval.max_windows
""")
HAVE_TESTS_OF_THEIR_OWN = ["run.steps", "schedule.decay_steps", "data.validation"]
ONE_KIND = ["model.kind"]
"""Another value makes another config."""
STATED = [*MAY, *MUST_AGREE, *HAVE_TESTS_OF_THEIR_OWN]

SHARDS, STAGE = [{"path": "a"}], {"until": 5, "sequence_length": 16}
TRANSFORMER = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 2}
TEXT_BATCH = {"global_size": 8, "sequence_length": 32}
REQUIRED: dict[str, dict[str, dict[str, Any]]] = {
    "gpt": {"model": TRANSFORMER, "batch": TEXT_BATCH, "data": {"train": SHARDS}},
    "bert": {"model": TRANSFORMER, "batch": TEXT_BATCH, "data": {"train": SHARDS}},
    "gpt-chat": {
        "model": {**TRANSFORMER, "init_from": "b"},
        "batch": TEXT_BATCH,
        "data": {"train": "a.jsonl"},
    },
    "bert-classifier": {
        "model": {**TRANSFORMER, "init_from": "b"},
        "batch": TEXT_BATCH,
        "data": {"train": "a.tsv", "text": "t", "label": "l"},
    },
    "bert-tagger": {
        "model": {**TRANSFORMER, "init_from": "b"},
        "batch": TEXT_BATCH,
        "data": {"train": "a.conll"},
    },
    "rnn": {
        "model": {"cell": "lstm", "num_layers": 1, "hidden_size": 8},
        "batch": TEXT_BATCH,
        "data": {"train": SHARDS},
    },
    "cnn": {"model": {}, "batch": {"global_size": 8}, "data": {"train": SHARDS}},
    "gan": {"model": {"image_size": 16}, "batch": {"global_size": 8}, "data": {"train": SHARDS}},
}
"""Kind -> what a config of it must have, beside run, optimizer and kind."""
IN_LISTS: dict[str, list[Any]] = {
    "data.train": SHARDS,
    "data.validation": SHARDS,
    "schedule.sequence_length": [STAGE],
    "schedule.batch_size": [{"until": 5, "global_size": 2}],
}
"""Lists of sections -> what they hold beside the key that changes."""
SPECIAL: dict[str, tuple[Any, Any]] = {
    "model.rotary_scaling_factor": (2.0, 4.0),
    "model.window_pattern": (("window",), ("full",)),
    "data.labels": (("a", "c"), ("b", "c")),
    "slurm.time": ("1:00:00", "2:00:00"),
    "slurm.directives": (("--mail-type=END",), ("--mail-type=FAIL",)),
    "slurm.environment": (("A=b",), ("A=c",)),
}


def config(kind: str = "gpt", **changes: Any) -> Config:
    """A config of a kind with dotted keys (`run__steps=5`) changed."""
    required = REQUIRED[kind]
    tree: dict[str, Any] = {name: dict(section) for name, section in required.items()}
    tree |= {"run": {"dir": "runs/a", "steps": 100}, "optimizer": {"lr": 1e-3}}
    tree["model"]["kind"] = kind
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return kind_named(kind).config.model_validate(tree)


def compatible(old: Config, new: Config, saved: list[int]) -> list[str]:
    """The verdict on two configs as a run folder holds them."""
    return table.compatible(written(old), written(new), saved)


@cache
def written(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(config_to_yaml(config), yaml.CSafeLoader)
    return found


def two_values(annotation: Any) -> tuple[Any, ...]:
    """Two legal values of a type, and null first where it is one."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return arguments[:2]
    if type(None) in arguments:
        (inner,) = (one for one in arguments if one is not type(None))
        return (None, *two_values(inner))
    if get_origin(annotation) is tuple:
        return tuple((value, *two_values(arguments[0])[2:]) for value in two_values(arguments[0]))
    if hasattr(annotation, "__metadata__"):
        return two_values(arguments[0])
    values: tuple[Any, ...] = {bool: (False, True), int: (8, 9), float: (0.25, 0.5), str: ("a", "b")}[
        annotation
    ]
    return values


def changes_of(kind: str) -> Iterator[tuple[str, list[Config]]]:
    """Every key of a kind, as it is written, with configs that differ in that key alone."""
    for path, field in leaf_keys(kind_named(kind).config):
        key, name = dotted(path), "__".join(map(str, path))
        if key in (*HAVE_TESTS_OF_THEIR_OWN, *ONE_KIND) and not is_list(field):
            continue
        inner = section_of(field)
        if inner is None:
            values = SPECIAL.get(key) or two_values(field.rebuild_annotation())
            yield (
                (f"{key}.0" if isinstance(values[0], tuple) else key),
                [config(kind, **{name: value}) for value in values],
            )
            continue
        for one, its in keys_of(inner).items():
            held = [{**IN_LISTS[key][0], one: value} for value in two_values(its.annotation)]
            if key == "data.validation":  # written as a list of paths; weights are refused
                if one == "path":
                    yield f"{key}.0", [config(kind, **{name: [entry]}) for entry in held]
                continue
            yield f"{key}.0.{one}", [config(kind, **{name: [entry]}) for entry in held]


CASES = {f"{kind} {key}": (key, configs) for kind in RECORDS for key, configs in changes_of(kind)}


def test_every_key_of_every_kind_has_a_verdict() -> None:
    keys = {key for key, _ in CASES.values()}
    assert sorted(keys) == sorted({*STATED} - {*HAVE_TESTS_OF_THEIR_OWN, *ONE_KIND})
    assert len(CASES) > 400 and len(STATED) == len({*STATED})


def rules(section: type[Section]) -> Iterator[Resume | None]:
    """Everything that a section and those in it say of a resume."""
    yield section.RESUME
    for field in keys_of(section).values():
        yield said(field)
        if inner := section_of(field):
            yield from rules(inner)


def test_every_rule_decides_about_a_key() -> None:
    decided = {rule_for(kind, key) for kind in RECORDS for key in STATED}
    assert [
        rule for kind in RECORDS for rule in rules(kind_named(kind).config) if rule and rule not in decided
    ] == []


@pytest.mark.parametrize("case", CASES)
def test_one_key_changes(case: str) -> None:
    key, configs = CASES[case]
    for old, new in [*pairwise(configs), *pairwise(configs[::-1])]:
        problems = compatible(old, new, [50])
        if key in MAY:
            assert problems == []
        else:
            (problem,) = problems
            assert problem.startswith(f"{key}: ") and " in the run, " in problem


def test_a_run_from_before_there_was_a_key_goes_on() -> None:
    """As the key's default has it, and in no other way."""
    old = written(config("gpt"))
    old = {**old, "model": {name: value for name, value in old["model"].items() if name != "bias"}}
    assert table.compatible(old, written(config("gpt")), [50]) == []
    [found] = table.compatible(old, written(config("gpt", model__bias=False)), [50])
    assert found.startswith("model.bias: True in the run, False now")
    assert table.compatible({**old, "eval": {}}, written(config("gpt")), [50]) == []


@pytest.mark.parametrize("kind", [kind for kind in RECORDS if kind != "gan"])
def test_validation_may_be_moved_and_not_begin_or_end(kind: str) -> None:
    def data(first: str | None, then: str | None) -> list[str]:
        file = kind in ("gpt-chat", "bert-classifier", "bert-tagger")
        values = [path if file or path is None else [{"path": path}] for path in (first, then)]
        old, new = (config(kind, data={**REQUIRED[kind]["data"], "validation": value}) for value in values)
        return compatible(old, new, [50])

    assert data("v", "w") == []
    for found in (data(None, "v"), data("v", None)):
        assert found and all("validation losses of one run must be comparable" in line for line in found)


def test_sources_may_not_be_added_removed_or_weighted_anew() -> None:
    a, b = {"path": "a"}, {"path": "b", "weight": 3.0}
    for old, new in pairwise(([a], [a, b], [a], [a, b], [a, {**b, "weight": 2.0}])):
        problems = compatible(config(data__train=old), config(data__train=new), [50])
        assert [line.partition(":")[0] for line in problems] == ["data.train.1.weight"]
    for old, new in pairwise(([a], [a, {"path": "b"}], [a])):
        known = {"data__train": [{"path": "c"}]}
        problems = compatible(
            config(**known, data__validation=old), config(**known, data__validation=new), [50]
        )
        assert [line.partition(":")[0] for line in problems] == ["data.validation.1"]


COSINE, WSD = {"kind": "cosine", "warmup_steps": 2}, {"kind": "wsd", "decay_steps": 5}
LENGTHS: list[tuple[str, Any, Any, Any, Any, list[int], str]] = [
    # kind, schedule and steps before, schedule and steps now, checkpoints, what is said
    ("gpt", {"kind": "constant"}, 20, {"kind": "constant"}, 40, [20], ""),
    ("gan", None, 20, None, 40, [20], ""),
    ("gpt", COSINE, 20, COSINE, 40, [2], ""),
    (
        "gpt",
        COSINE,
        20,
        COSINE,
        40,
        [2, 4],
        "run.steps: 20 in the run, 40 now (with schedule.kind cosine steps 3 to 4, which are done, have "
        "other learning rates; schedule.decay_steps=20 keeps them, and goes on at schedule.min_lr; to go on "
        "from step 2, remove the checkpoints after step-00000002)",
    ),
    ("gpt", COSINE, 20, {**COSINE, "decay_steps": 20}, 40, [20], ""),
    ("gpt", {**COSINE, "decay_steps": 20}, 20, COSINE, 20, [10], ""),
    ("rnn", {**COSINE, "decay_steps": 40}, 20, {**COSINE, "decay_steps": 40}, 40, [20], ""),
    (
        "cnn",
        {"kind": "linear", "decay_steps": 20},
        20,
        {"kind": "linear", "decay_steps": 40},
        20,
        [10],
        "schedule.decay_steps: 20 in the run, 40 now (with schedule.kind linear steps 1 to 10, which are "
        "done, have other learning rates; there is no checkpoint of step 0 or before)",
    ),
    ("gpt", {"decay_tokens": 9000}, 20, {"decay_tokens": 9000}, 40, [20], ""),
    ("gpt", WSD, 20, WSD, 40, [10, 15], ""),
    (
        "bert",
        WSD,
        20,
        WSD,
        40,
        [10, 16],
        "run.steps: 20 in the run, 40 now (with schedule.kind wsd steps 16 to 16, which are done, have other "
        "learning rates; to go on from step 10, remove the checkpoints after step-00000010)",
    ),
    ("gpt", WSD, 40, WSD, 20, [15], ""),
    (
        "gpt",
        WSD,
        40,
        WSD,
        20,
        [16],
        "run.steps: 40 in the run, 20 now (with schedule.kind wsd steps 16 to 16",
    ),
    ("gpt", WSD, 20, {**WSD, "decay_steps": 10}, 20, [10], ""),
    ("gpt", WSD, 20, {**WSD, "decay_steps": 10}, 20, [11], "schedule.decay_steps: 5 in the run, 10 now"),
    ("gpt", {"kind": "wsd"}, 20, {"kind": "wsd"}, 40, [18], ""),
    ("gpt", {"kind": "wsd"}, 20, {"kind": "wsd"}, 40, [19], "run.steps: 20 in the run, 40 now"),
    ("gpt", COSINE, 20, {"kind": "wsd", "warmup_steps": 2}, 20, [9], "schedule.kind: 'cosine' in the run"),
    *(
        (
            kind,
            None,
            20,
            None,
            15,
            [10, 20],
            "run.steps: 20 in the run, 15 now (20 steps are done; set it to 20 or more; to go on from step "
            "10, remove the checkpoints after step-00000010)",
        )
        for kind in RECORDS
    ),
    ("gan", None, 20, None, 15, [15], ""),
]


@pytest.mark.parametrize(("kind", "old", "before", "new", "now", "saved", "said"), LENGTHS)
def test_lengths(kind: str, old: Any, before: int, new: Any, now: int, saved: list[int], said: str) -> None:
    def of(schedule: dict[str, Any] | None, steps: int) -> Config:
        return config(kind, run__steps=steps, **{} if schedule is None else {"schedule": schedule})

    found = compatible(of(old, before), of(new, now), saved)
    assert len(found) == bool(said)
    assert said in "".join(found)


@settings(max_examples=60)
@given(
    kind=some.sampled_from(["cosine", "linear", "constant", "wsd"]),
    steps=some.tuples(some.integers(1, 12), some.integers(1, 12)),
    decays=some.tuples(some.none() | some.integers(1, 12), some.none() | some.integers(1, 12)),
    warmup=some.integers(0, 3),
    done=some.integers(0, 12),
)
def test_a_length_may_change_while_no_step_that_is_done_had_another_rate(
    kind: str, steps: tuple[int, int], decays: tuple[int | None, int | None], warmup: int, done: int
) -> None:
    old, new = (
        config(
            run__steps=length,
            schedule={
                "kind": kind,
                "warmup_steps": warmup,
                "decay_steps": None if kind == "constant" else decay,
            },
        )
        for length, decay in zip(steps, decays, strict=True)
    )
    if violations(old, 1) or violations(new, 1) or done > min(steps):
        return
    assert isinstance(old, GptConfig) and isinstance(new, GptConfig)
    rates = [[learning_rate(one, step) for step in range(done + 1)] for one in (old, new)]
    if compatible(old, new, [done] if done else []):
        assert rates[0] != rates[1]
    else:
        assert rates[0][:done] == rates[1][:done]


def test_a_key_nobody_has_thought_about_must_agree() -> None:
    assert table.compatible({"new": {"key": 1}}, {"new": {"key": 2}})
    assert table.compatible({}, {"new": {"key": 2}})


def test_numbers_are_compared_as_numbers_and_texts_as_texts() -> None:
    assert table.compatible({"optimizer": {"lr": "6e-4"}}, {"optimizer": {"lr": 0.0006}}) == []
    assert table.compatible({"model": {"bias": True}}, {"model": {"bias": 1}})
    assert table.compatible({"data": {"labels": ["1", "2"]}}, {"data": {"labels": ["01", "2"]}})
    assert table.compatible({"data": {"label": "1"}}, {"data": {"label": "1.0"}})
