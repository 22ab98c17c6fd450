"""docs/coming-from.md: each key in its tables is one of a config, and each name of Hugging Face is theirs."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from config_files import REPOSITORY
from pydantic import TypeAdapter, ValidationError
from transformers import LlamaConfig, TrainingArguments

from pretrain.config.node import dotted
from pretrain.config.schema import every_key

PAGE = REPOSITORY / "docs" / "coming-from.md"
KEYS = {dotted(path): declared for path, declared in every_key().items()}
SHOWN = re.compile(r"`([^`]+)`")


def tables(page: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Rows of each table by the head of its first column."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        head, _, *lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        found[head[0]] = [(theirs, ours, remarks) for theirs, ours, remarks, *_ in lines]
    return found


TABLES = tables(PAGE)
OURS = [
    pytest.param(shown, id=f"{head}: {theirs} -> {shown}")
    for head, rows in TABLES.items()
    for theirs, ours, remarks in rows
    for shown in [
        *SHOWN.findall(ours),
        *(word for word in SHOWN.findall(remarks) if re.match(r"[a-z]+\.[a-z_]+", word)),
    ]
    if not shown.startswith("pretrain ")
]


def require_key(shown: str) -> None:
    """A key, or a key and a value that one of the kinds that have the key takes."""
    key, colon, value = shown.partition(": ")
    assert key in KEYS, f"{key} is no key of a config"
    if not colon:
        return
    for field in KEYS[key]:
        try:
            TypeAdapter(field.annotation).validate_python(yaml.safe_load(value))
        except ValidationError:
            continue
        return
    pytest.fail(f"{key} takes no {value}")


def test_there_are_tables_for_each() -> None:
    assert list(TABLES) == ["Megatron-LM", "nanoGPT", "TrainingArguments", "LlamaConfig"]
    assert all(re.search("`.+`", ours) for rows in TABLES.values() for _, ours, _ in rows)


@pytest.mark.parametrize("shown", OURS)
def test_each_key_exists_and_takes_the_value(shown: str) -> None:
    require_key(shown)


@pytest.mark.parametrize("wrong", ["model.layers", "optimizer.adam_beta1", "model.activation: silu", "steps"])
def test_a_wrong_key_would_be_noticed(wrong: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        require_key(wrong)


def test_what_is_said_of_defaults_is_so() -> None:
    def default(key: str) -> object:
        return KEYS[key][0].default

    assert (default("optimizer.weight_decay"), default("optimizer.beta2")) == (0.1, 0.95)
    assert (default("schedule.kind"), default("schedule.warmup_steps")) == ("cosine", 0)
    assert (default("model.dropout"), default("model.activation")) == (0.0, "gelu_tanh")
    assert default("checkpoint.keep_last") == 2
    theirs = {each.name: each.default for each in fields(TrainingArguments)}
    assert (theirs["weight_decay"], theirs["adam_beta2"], theirs["lr_scheduler_type"]) == (
        0.0,
        0.999,
        "linear",
    )


def test_names_of_hugging_face_are_theirs() -> None:
    training = {each.name for each in fields(TrainingArguments)}
    llama = set(LlamaConfig().to_dict())
    for head, known in (("TrainingArguments", training), ("LlamaConfig", llama)):
        named = {name for theirs, _, _ in TABLES[head] for name in SHOWN.findall(theirs)}
        assert named <= known


def test_names_of_megatron_are_options() -> None:
    names = [name for theirs, _, _ in TABLES["Megatron-LM"] for name in SHOWN.findall(theirs)]
    assert all(re.fullmatch(r"--[a-z0-9-]+( --[a-z0-9-]+)*", name) for name in names)
