"""Which keys may change when a run is resumed."""

import pytest

from pretrain.compatible import RULES, compatible, flatten, rule_for
from pretrain.config.node import dotted
from pretrain.config.schema import every_key
from pretrain.config.sections import GptConfig

TREE: dict[str, dict[str, object]] = {
    "run": {"dir": "runs/a", "steps": 100},
    "model": {"kind": "gpt", "num_layers": 2, "hidden_size": 64, "num_attention_heads": 2},
    "batch": {"global_size": 8, "sequence_length": 32},
    "optimizer": {"lr": 1e-3},
    "schedule": {"kind": "cosine", "decay_steps": 100},
    "data": {"train": ({"path": "a", "weight": 1.0}, {"path": "b", "weight": 3.0})},
}


def config(**changes: object) -> GptConfig:
    """The config with dotted keys (`run__steps=5`) changed."""
    tree = {section: dict(keys) for section, keys in TREE.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        tree.setdefault(section, {})[name] = value
    return GptConfig.model_validate(tree)


def test_every_key_of_the_schema_has_a_rule() -> None:
    keys = list(map(dotted, every_key()))
    assert len(keys) > 50
    assert [key for key in keys if rule_for(key) not in RULES] == []


def test_every_rule_names_a_key() -> None:
    keys = [*map(dotted, every_key()), *flatten(config())]
    keys += ["data.validation.0.path", "data.validation.0.weight", "slurm.nodes"]
    keys += ["schedule.sequence_length.0.micro_size"]
    assert [rule.pattern for rule in RULES if not any(rule_for(key) is rule for key in keys)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"run__steps": 200, "run__dir": "runs/moved", "run__resume": "auto"},
        {"parallel__tensor": 2, "batch__micro_size": 2, "checkpoint__async": True, "eval__every": 7},
        {"tracking__uri": "http://localhost:5000", "health__on_nonfinite": "skip"},
        {"data__train": ({"path": "/moved/a", "weight": 1.0}, {"path": "/moved/b", "weight": 3.0})},
    ],
)
def test_a_resume_may_change_these(changes: dict[str, object]) -> None:
    assert compatible(config(), config(**changes)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.num_layers", 4),
        ("model.dropout", 0.1),
        ("batch.global_size", 16),
        ("batch.sequence_length", 64),
        ("optimizer.lr", 2e-3),
        ("schedule.decay_steps", 200),
        ("run.seed", 1),
        ("data.reset_at_document_end", True),
        ("data.validation_fraction", 0.1),
    ],
)
def test_a_resume_may_not_change_these(key: str, value: object) -> None:
    (problem,) = compatible(config(), config(**{key.replace(".", "__"): value}))
    old = flatten(config())[key]
    assert problem.startswith(f"{key}: {old!r} in the run, {value!r} now")


def test_the_mix_of_sources_must_agree() -> None:
    sources = ({"path": "a", "weight": 1.0}, {"path": "b", "weight": 2.0})
    (problem,) = compatible(config(), config(data__train=sources))
    assert problem.startswith("data.train.1.weight: 3.0 in the run, 2.0 now")
    (problem,) = compatible(config(), config(data__train=({"path": "a", "weight": 1.0},)))
    assert problem.startswith("data.train.1.weight: 3.0 in the run, '(absent)' now")


def test_steps_may_not_change_a_schedule_that_follows_from_them() -> None:
    old = config(schedule__decay_steps=None)
    (problem,) = compatible(old, config(schedule__decay_steps=None, run__steps=200))
    assert "run.steps: 100 in the run, 200 now" in problem and "decay_steps" in problem
    constant = config(schedule__decay_steps=None, schedule__kind="constant")
    longer = config(schedule__decay_steps=None, schedule__kind="constant", run__steps=200)
    assert compatible(constant, longer) == []


def test_a_key_nobody_has_thought_about_must_agree() -> None:
    assert compatible({"new": {"key": 1}}, {"new": {"key": 2}})
    assert compatible({}, {"new": {"key": 2}})


def test_numbers_are_compared_as_numbers() -> None:
    assert compatible({"optimizer": {"lr": "6e-4"}}, {"optimizer": {"lr": 0.0006}}) == []
    assert compatible({"model": {"bias": True}}, {"model": {"bias": 1}})
