"""The commands that README, docs and the heads of configs show, and how the real command line reads them."""

import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import typer.main
from config_files import REPOSITORY

from pretrain.cli import app

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
LAUNCHERS = {"torchrun", "srun"}
LOOP = re.compile(r"for (\w+) in (.*?); do (.*?); done")
TREE: Any = typer.main.get_command(app)


def blocks(page: Path) -> list[str]:
    """The head of a config, or the code blocks of a page, with continued lines joined."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        found = ["\n".join(line[4:] for line in text.splitlines() if line.startswith("#   "))]
    else:
        found = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks, with continued lines joined, and code within text."""
    for block in blocks(page):
        yield from block.splitlines()
    if page.suffix != ".yaml":
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        yield from re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
        for inline in re.findall(r"`([^`]+)`", text):
            yield from inline.replace("\\\n", " ").replace("\n", " ").splitlines()


def commands(lines: Iterable[str]) -> Iterator[list[str]]:
    """Words of each `pretrain ...` in some lines, with the launcher before it; patterns stay."""
    for line in chain.from_iterable(map(_turns, lines)):
        words = line.removeprefix("$ ").split()
        if "pretrain" in words and words[0] in {"pretrain", *LAUNCHERS}:
            yield shlex.split(line.removeprefix("$ "), comments=True)


def _turns(line: str) -> list[str]:
    """The commands of a shell's loop over words, or the line itself."""
    loop = LOOP.fullmatch(line.strip())
    return [loop[3].replace(f"${loop[1]}", word) for word in loop[2].split()] if loop else [line]


def command_lines(page: Path) -> Iterator[list[str]]:
    """Arguments of each `pretrain ...` that a page shows, also behind a launcher."""
    for words in commands(code(page)):
        yield words[words.index("pretrain") + 1 :]


def parse(arguments: list[str]) -> tuple[str, list[str], dict[str, Any]]:
    """Command, positional arguments and options, as click reads them; required ones may be missing."""
    command, words = TREE, list(arguments)
    context = command.context_class(command, info_name="pretrain")
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        word = words.pop(0)
        assert word in command.commands, f"no command {word!r} in {arguments}"
        command = command.commands[word]
        context = command.context_class(command, info_name=word, parent=context)
    options, rest, _ = command.make_parser(context).parse_args(words)
    named = {parameter.name for parameter in command.params if parameter.param_type_name == "option"}
    positional = [value for name, value in options.items() if name not in named and value is not None]
    flat = [word for value in positional for word in (value if isinstance(value, list | tuple) else [value])]
    return context.info_name, [*map(str, flat), *rest], {name: options.get(name) for name in named}
