"""`pretrain configs`: what it lists of each preset, and what a copy is."""

import re
from pathlib import Path

import pytest
import yaml
from config_files import REPOSITORY, SHIPPED
from shown_commands import CONFIGS

from pretrain.commands.configs import copy_command, list_command
from pretrain.config import presets
from pretrain.config.load import read_config
from pretrain.config.presets import copy_preset, preset_names, preset_path, presets_folder
from pretrain.errors import UserError

LONGEST = 100
NAMES = [path.relative_to(REPOSITORY / "configs").with_suffix("").as_posix() for path in CONFIGS]


def test_the_presets_are_the_folder_of_the_repository() -> None:
    assert presets_folder() == REPOSITORY / "configs"
    assert list(preset_names()) == sorted(NAMES)


def test_the_list_has_kind_size_and_purpose_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    list_command()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "KIND", "SIZE", "FOR"]
    rows = {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"  +", line)) > 1}
    assert sorted(rows) == sorted(NAMES)
    assert rows["gpt/gpt3-175b"] == [
        "gpt",
        "175B parameters",
        "GPT-3 175B (Brown et al. 2020), planned for 1024 H100.",
    ]
    assert rows["gpt/gpt2-124m"][:2] == ["gpt", "124M parameters"]
    assert rows["bert/large"][:2] == ["bert", "336M parameters"]
    assert rows["rnn/lstm"][:2] == ["rnn", "2 layers of 207"]
    assert rows["gan/dcgan"][:2] == ["gan", "64 x 64 pixels"]
    assert rows["cluster/generic"] == ["cluster", "A cluster of GPU nodes, to copy and edit."]


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_the_first_line_of_a_preset_says_what_it_is_for(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# [A-Z].*[^.]\.", first)
    assert len(first) <= LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_says_what_the_preset_says(name: str, tmp_path: Path) -> None:
    copy = copy_preset(name, str(tmp_path / "copy.yaml"))
    source = preset_path(name)
    assert yaml.safe_load(copy.read_text()) == yaml.safe_load(source.read_text())
    if source in SHIPPED:
        assert read_config(str(copy)).config == read_config(str(source)).config


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_what_a_preset_names_beside_it_is_in_its_own_folder(path: Path) -> None:
    """A copy takes it along under the same name: so it may not lead out of the folder."""
    assert all(Path(name).name == name for name in presets._names_beside(path))


def test_a_copy_of_a_task_has_its_examples_beside_it(tmp_path: Path) -> None:
    copy_preset("example_choice", f"{tmp_path}/mine/")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "example_choice.jsonl",
        "example_choice.yaml",
    ]
    copy_preset("example_choice", str(tmp_path / "mine" / "other.yaml"))  # the same examples are there
    (tmp_path / "mine" / "example_choice.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"example_choice\.jsonl: is there and differs from the preset's"):
        copy_preset("example_choice", str(tmp_path / "mine" / "third.yaml"))
    assert not (tmp_path / "mine" / "third.yaml").exists()


def test_a_copy_has_the_base_of_a_preset_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "presets"
    (folder / "gpt").mkdir(parents=True)
    (folder / "gpt" / "tiny.yaml").write_text((REPOSITORY / "configs/gpt/tiny.yaml").read_text())
    (folder / "gpt" / "longer.yaml").write_text("# Longer.\nbase: tiny.yaml\nrun: {steps: 99}\n")
    monkeypatch.setattr(presets, "presets_folder", lambda: folder)
    copy = copy_preset("longer", str(tmp_path / "work" / "mine.yaml"))
    config = read_config(str(copy)).config
    assert (config.run.steps, config.run.dir) == (99, "runs/tiny")


def test_commands_in_the_head_of_a_copy_name_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = copy_preset("gpt/tiny", "my job.yaml").read_text()
    assert "#   pretrain train 'my job.yaml'\n" in text
    assert "configs/gpt/tiny.yaml" not in text


@pytest.mark.parametrize(
    ("target", "written"),
    [(None, "tiny.yaml"), ("a.yaml", "a.yaml"), ("there", "there/tiny.yaml"), ("new/", "new/tiny.yaml")],
)
def test_where_a_copy_goes(
    target: str | None,
    written: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    copy_command("gpt/tiny", target)
    assert capsys.readouterr().out == f"{written}: a copy of gpt/tiny, to edit\n"
    assert (tmp_path / written).is_file()


def test_an_existing_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt3-1.3b.yaml").write_text("mine")
    Path("link.yaml").symlink_to("nowhere.yaml")
    for target in (None, "link.yaml"):
        with pytest.raises(UserError, match="is there already; nothing is overwritten") as caught:
            copy_preset("gpt3-1.3b", target)
        assert caught.value.exit_code == 2
    assert Path("gpt3-1.3b.yaml").read_text() == "mine"
    assert not Path("nowhere.yaml").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt3-1.3", r"^gpt3-1\.3: no such preset \(did you mean 'gpt3-1\.3b'\?\)"),
        ("gpt/tinny", r"^gpt/tinny: no such preset \(did you mean 'gpt/tiny'\?\)"),
        ("zzzz", r"^zzzz: no such preset; `pretrain configs` lists them"),
        ("tiny", r"^tiny: is the name of 2 presets: bert/tiny, gpt/tiny; give one in full"),
        ("../../pyproject", "no such preset"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        copy_preset(name, str(tmp_path / "copy.yaml"))
    assert caught.value.exit_code == 2


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/below: cannot be made: Not a directory"):
        copy_preset("gpt/tiny", str(tmp_path / "file" / "below" / "tiny.yaml"))


def test_a_preset_that_is_not_here_is_told_how_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs name it, outside the repository."""
    monkeypatch.chdir(tmp_path)
    hint = "pretrain configs copy gpt/tiny configs/gpt/tiny.yaml"
    with pytest.raises(UserError, match=f"no such config file; it is a preset: `{hint}` writes it here"):
        read_config("configs/gpt/tiny.yaml")
    copy_preset("gpt/tiny", "configs/gpt/tiny.yaml")
    read_config("configs/gpt/tiny.yaml")
    for other in ("gpt/tiny.yaml", "configs/gpt/mine.yaml", "configs/gpt/tiny"):
        with pytest.raises(UserError) as caught:
            read_config(other)
        assert "preset" not in str(caught.value)
