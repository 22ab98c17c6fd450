"""A chat template is a program: it has little time and memory, and ends with one message."""

import os
from pathlib import Path

import pytest

from pretrain.errors import UserError
from pretrain.gpt.chat.renderer import Renderer
from pretrain.gpt.chat.template import ChatTemplate

ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
MACRO = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
DOUBLING = (
    "{% set held = namespace(text='a' * 1000000) %}"
    "{% for _ in range(99) %}{% set held.text = held.text ~ held.text %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", [ENDLESS, MACRO, "{{ 10 ** (10 ** n) }}"], ids=["loops", "macro", "power"]
)
def test_a_template_that_never_ends_is_ended(template: str) -> None:
    renderer = Renderer(template, "a.jinja", seconds=1)
    with pytest.raises(UserError, match=r"^a\.jinja: takes more than 1 s for one conversation: does"):
        renderer.render({"n": 10})


@pytest.mark.slow
def test_a_template_whose_reading_never_ends_is_ended() -> None:
    """Jinja works out what is constant when it reads a template."""
    with pytest.raises(UserError, match=r"^a\.jinja: takes more than 1 s"):
        Renderer("{{ 10 ** (10 ** 10) }}", "a.jinja", seconds=1)


@pytest.mark.slow
def test_a_template_has_little_memory_and_says_so_again_and_again() -> None:
    renderer = Renderer("{% if much %}" + DOUBLING + "{% else %}{{ 'a' * n }}{% endif %}", "a.jinja")
    for _ in range(2):
        with pytest.raises(UserError, match=r"^a\.jinja: takes more than 1,073,741,824 bytes of memory$"):
            renderer.render({"much": True})
        with pytest.raises(UserError, match=r"^a\.jinja: makes more than 16,777,216 characters"):
            renderer.render({"n": 20_000_000})
        assert renderer.render({"n": 3}) == "aaa"


def test_files_that_are_no_template(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: cannot be read: is a pipe and not a plain file"):
        ChatTemplate.read(tmp_path / "pipe")
    (tmp_path / "large").write_text(" " * ((1 << 20) + 1))
    with pytest.raises(UserError, match="holds 1,048,577 bytes, more than the 1,048,576 allowed"):
        ChatTemplate.read(tmp_path / "large")
    (tmp_path / "odd").write_text("\n{% for %}")
    with pytest.raises(UserError, match=r"odd:2: is no Jinja template: "):
        ChatTemplate.read(tmp_path / "odd")
