"""What README, docs and the heads of configs promise exists: commands, keys, links, configs, make targets."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from config_files import REPOSITORY
from shown_commands import CONFIGS, PAGES, code, command_lines, parse

from data_tools.tokenizers.segments import SEGMENT_CHARACTERS
from pretrain.config.load import load_config
from pretrain.config.node import ConfigError, dotted
from pretrain.config.schema import every_key

FOLDERS = "benchmarks|configs|data_tools|docs|evals|pretrain|slurm|tests"
KEYS = {dotted(path) for path in every_key()}
OVERRIDE = re.compile(r"([a-z_]+\.[a-z_]+|precision)=.*")

SHOWN = [
    pytest.param(arguments, id=f"{page.name}: {shlex.join(arguments)[:60]}")
    for page in (*PAGES, *CONFIGS)
    for arguments in command_lines(page)
]


def test_pages_show_commands() -> None:
    assert len(SHOWN) > 40


@pytest.mark.parametrize("arguments", SHOWN)
def test_a_shown_command_line_parses(arguments: list[str]) -> None:
    _, positional, _ = parse(arguments)
    for word in positional:
        if match := OVERRIDE.fullmatch(word):
            assert match[1] in KEYS, word


@pytest.mark.parametrize("arguments", SHOWN)
def test_a_shown_run_of_a_shipped_config_is_legal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    command, positional, options = parse(arguments)
    for word in [*positional, *map(str, options.values())]:
        assert not re.fullmatch(r"configs/(?!my)[\w/.-]+\.\w+", word) or Path(word).is_file(), word
    from_a_run = any(word.startswith("model.init_from=") for word in positional)  # test_config_inherit.py
    shipped = bool(positional) and positional[0].startswith("configs/")
    if command in {"train", "check"} and shipped and not from_a_run:
        count = options["processes"]
        load_config(positional[0], positional[1:], int(count) if count else None)


@pytest.mark.parametrize(
    "line",
    [
        "pretrain trian x.yaml",
        "pretrain train x.yaml --proceses 2",
        "pretrain data bild --input x",
        "srun -n 2 pretrain train --processs 3",
        "pretrain train x.yaml model.layers=3",
    ],
)
def test_a_wrong_command_line_would_be_noticed(line: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```\n{line}   # remark\n```\n")
    [arguments] = command_lines(page)
    with pytest.raises(Exception, match=r"no command|No such option|model\.layers"):
        test_a_shown_command_line_parses(arguments)


def test_an_illegal_run_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "configs/gpt/tiny.yaml", "--processes", "3"]
    with pytest.raises(ConfigError, match="not a multiple"):
        test_a_shown_run_of_a_shipped_config_is_legal(arguments, monkeypatch)


def heading_anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        assert not name.startswith("http"), f"{target}: pages need no network"
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in heading_anchors(file), target


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda page: page.name)
def test_paths_that_are_named_exist(page: Path) -> None:
    for path in re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]+\w)", page.read_text(encoding="utf-8")):
        near = page.parent / path
        if path.startswith("configs/my"):
            continue  # stands for a config of the reader's own
        assert near.exists() or (REPOSITORY / path).exists(), path


def test_every_page_is_linked_from_the_readme_of_its_folder_or_one_above() -> None:
    for page in PAGES[1:]:
        readmes = [folder / "README.md" for folder in page.parents if REPOSITORY in (folder, *folder.parents)]
        above = next(path for path in readmes if path.exists() and path != page)
        link = page.relative_to(above.parent)
        assert f"({link})" in above.read_text(encoding="utf-8"), page.name


def test_hooks_are_the_first_steps_of_make_check() -> None:
    recipe = re.search(r"^check: install\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    steps = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    [repository] = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is downloaded
    assert [hook["entry"] for hook in repository["hooks"]] == steps[:3]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {match[1] for line in code(page) if (match := re.fullmatch(r"make (\w+)", line.strip()))}
    assert named <= targets


def test_the_length_of_a_segment_is_that_of_the_tokenizer() -> None:
    page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    assert f"Texts longer than {SEGMENT_CHARACTERS} characters" in page
