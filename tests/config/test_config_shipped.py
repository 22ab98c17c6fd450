"""Misspelt keys: one letter of any key of any shipped config changed, and the config is refused."""

import re
from pathlib import Path

import pytest
from config_files import REPOSITORY, SHIPPED

from pretrain.config.docs import PAGE, config_page
from pretrain.config.load import read_config
from pretrain.config.node import ConfigError, dotted
from pretrain.config.resolved import config_to_yaml
from pretrain.config.schema import keys_of, leaf_keys, nearest_name, section_at
from pretrain.config.sections import GptConfig
from pretrain.kinds import configs

KEY = re.compile(r"^( *)(?:- )?([a-z_0-9]+):", re.MULTILINE)


def misspelt(text: str) -> list[tuple[str, str, str]]:
    """(key, text with one letter of it changed, changed key) for every key of a config."""
    every = {key for kind in configs().values() for path, _ in leaf_keys(kind) for key in path}
    changed = []
    for number, match in enumerate(KEY.finditer(text)):
        key = match[2]
        letters = [i for i, letter in enumerate(key) if letter.isalpha()]
        at = letters[number % len(letters)]
        for letter in ("q", "e"):
            other = key[:at] + letter + key[at + 1 :]
            if other not in every and other != key:
                start = match.start(2)
                changed.append((key, text[:start] + other + text[start + len(key) :], other))
    return changed


@pytest.mark.parametrize("path", [*SHIPPED, None], ids=lambda path: path.name if path else "every key")
def test_every_misspelt_key_is_refused_with_the_right_one(path: Path | None, tmp_path: Path) -> None:
    text = path.read_text() if path else config_to_yaml(read_config(str(SHIPPED[0])).config)
    cases = misspelt(text)
    assert len({key for key, _, _ in cases}) == len({match[2] for match in KEY.finditer(text)})
    for key, wrong, other in cases:
        (tmp_path / "wrong.yaml").write_text(wrong)
        with pytest.raises(ConfigError) as caught:
            read_config(str(tmp_path / "wrong.yaml"))
        message = str(caught.value)
        assert f"'{other}' (did you mean '{key}'?)" in message, message


def test_no_key_is_one_letter_away_from_being_taken_for_another() -> None:
    """Every position of every key, and every section's name."""
    for path, _ in leaf_keys(GptConfig):
        section = section_at(GptConfig, path[:-1])
        assert section
        names = list(keys_of(section))
        key = str(path[-1])
        for at, letter in enumerate(key):
            if not letter.isalpha():
                continue
            wrong = f"{key[:at]}q{key[at + 1 :]}"
            assert wrong in names or nearest_name(wrong, names) == key


def test_a_missing_swapped_or_added_letter_is_understood() -> None:
    names = list(keys_of(GptConfig))
    assert [nearest_name(word, names) for word in ("mdel", "modle", "modell", "Model", "data_")] == [
        "model",
        "model",
        "model",
        "model",
        "data",
    ]
    assert nearest_name("zzzzzzzz", names) is None


def test_the_page_of_keys_is_up_to_date_and_complete() -> None:
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    assert page == config_page(), "run `python -m pretrain.config.docs`"
    for path, _ in leaf_keys(GptConfig):
        section = page.split(f"## `{path[0]}`")[1].split("\n## ")[0] if len(path) > 1 else page
        assert f"| `{path[-1]}` |" in section, dotted(path)
