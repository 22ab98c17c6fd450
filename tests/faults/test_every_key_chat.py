"""Every key that a run on conversations has beside a GPT's changes what is read, packed or started from."""

from pathlib import Path

import pytest
from chat_runs import LENGTH, chat_config, gpt_run, write_jsonl

from pretrain.config.node import dotted
from pretrain.config.schema import leaf_keys
from pretrain.config.sections import ChatConfig, GptConfig
from pretrain.gpt.chat.data import ChatTraining, open_chat
from pretrain.megatron.init_from import find_init_from, require_init_from

ROWS = [
    {
        "prompt": f"{number}?",
        "response": "yes",
        "question": "why?",
        "reply": "because",
        "talk": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    for number in range(4)
]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
CHANGES = {
    "data.prompt": "question",
    "data.response": "reply",
    "data.messages": "talk",
    "data.chat_template": "template.jinja",
    "data.packing": "false",
}
"""Another value than the default, with which the sequences differ."""
ELSEWHERE = {
    "data.too_long": "tests/gpt/test_chat_data.py: refuse and truncate",
    "model.init_from": "tests/gpt/test_chat.py: the run that is gone on from; required",
}


@pytest.fixture
def training(tmp_path: Path) -> ChatTraining:
    gpt_run(tmp_path / "gpt")
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    return opened(tmp_path)


def opened(folder: Path, *more: str) -> ChatTraining:
    config = chat_config(folder / "gpt", folder / "train.jsonl", *more)
    return open_chat(config, require_init_from(find_init_from(config, print))).training


@pytest.mark.parametrize("key", CHANGES)
def test_keys_of_the_data(training: ChatTraining, tmp_path: Path, key: str) -> None:
    value = CHANGES[key]
    other = opened(tmp_path, f"{key}={tmp_path / value if value.endswith('.jinja') else value}")
    assert other.fingerprint != training.fingerprint
    batches = [each.batch(0, 0, 0, 1) for each in (training, other)]
    assert batches[0].tokens.shape == (4, LENGTH)
    assert batches[0].tokens.tolist() != batches[1].tokens.tolist()


def test_every_key_has_an_entry() -> None:
    mine = {dotted(path) for path, _ in leaf_keys(ChatConfig)}
    common = {dotted(path) for path, _ in leaf_keys(GptConfig)} - {"model.init_from"}  # needed here
    assert sorted(mine - common) == sorted([*CHANGES, *ELSEWHERE])
