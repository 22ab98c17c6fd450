"""Bad shards and bad configs, through the commands: one message with an exit code, and nothing trained."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input_commands import Commands, documents, write_run
from shard_files import overwrite, refit
from text_shards import build_shards

from data_tools.tokenizer import Tokenizer
from data_tools.train_tokenizer import train_tokenizer
from pretrain import cli

pytestmark = pytest.mark.slow
FIRST, SECOND = "000000-000.tar", "000001-000.tar"


@pytest.fixture
def shards(good_shards: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(good_shards, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "char"
    train_tokenizer(documents(40), "char").save(path)
    return path


def refused_everywhere(
    commands: Commands, trained: Path, shards: Path, code: int, *parts: str, verify: int | None = None
) -> None:
    """By training, evaluation, check and `data verify`, each with one message, and nothing is saved."""
    config = write_run(shards.parent, shards)
    commands.run("train", config).refused(code, *parts)
    commands.run("eval", trained / "run", "--data", shards).refused(code, *parts)
    commands.run("check", config).refused(code, *parts)
    commands.run("data", "verify", shards).refused(verify or code, *parts)
    assert not list((shards.parent / "run").glob("checkpoints/*"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "missing, the index expects 40960 bytes"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes, the index expects 40960"),
    "truncated": (lambda path: os.truncate(path, 40448), "40448 bytes, the index expects 40960"),
    "linked": (
        lambda path: path.symlink_to(path.rename(path.with_suffix(".x"))),
        "is a link or a folder and not a plain file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_of_another_size(commands: Commands, trained: Path, shards: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    change(shards / SECOND)
    refused_everywhere(
        commands, trained, shards, 3, f"{SECOND}: {message}", "copy the shard again or build the directory"
    )


def test_a_flipped_bit_is_for_verify(commands: Commands, shards: Path) -> None:
    """Training checks sizes alone, so it goes on; reading every byte is what `data verify` is for."""
    block = json.loads((shards / "index.json").read_text())["shards"][0]["blocks"][0]
    overwrite(shards / FIRST, block["tokens_offset"], b"z")
    commands.run("data", "verify", shards).refused(3, "1 fault\n", f"{FIRST}: its bytes have changed: sha256")
    assert commands.run("train", write_run(shards.parent, shards)).code == 0


def test_a_shard_of_another_build(commands: Commands, shards: Path, tmp_path: Path) -> None:
    other = build_shards(tmp_path / "other", documents(41)[1:])
    shutil.copy(other / FIRST, shards / FIRST)
    shutil.copy(other / SECOND, shards / "stray.tar")
    verified = commands.run("data", "verify", shards)
    verified.refused(3, "stray.tar: not in the index (a shard of another build?)", f"{FIRST}: its bytes have")


def test_shards_of_another_tokenizer(
    commands: Commands, trained: Path, shards: Path, other_tokenizer: Path, tmp_path: Path
) -> None:
    message = f"{shards}: the shards were built with tokenizer"
    config = write_run(tmp_path, shards, data__tokenizer=str(other_tokenizer))
    for command in ("train", "check"):
        commands.run(command, config).refused(2, message, f"(data.tokenizer {other_tokenizer})")
    other = build_shards(tmp_path / "char", documents(40), Tokenizer.load(other_tokenizer))
    commands.run("train", write_run(tmp_path, shards, data__train=[str(other), str(shards)])).refused(
        2, message, f"(that of {other})", "build them again with that tokenizer"
    )
    commands.run("eval", trained / "run", "--data", other).refused(2, "(the model's tokenizer)")


def test_a_tokenizer_that_is_not_the_shards_own(
    commands: Commands, shards: Path, other_tokenizer: Path, tmp_path: Path
) -> None:
    config = write_run(tmp_path, shards)
    shutil.rmtree(shards / "tokenizer")
    shutil.copytree(other_tokenizer, shards / "tokenizer")
    for command in (["train", config], ["check", config], ["data", "verify", shards]):
        commands.run(*command).refused(3, "fingerprint", "but the shards were built with")
    (shards / "tokenizer/tokenizer.json").write_text("{")
    for command in (["train", config], ["check", config], ["data", "verify", shards]):
        commands.run(*command).refused(3, "tokenizer/tokenizer.json: is not valid JSON")


def test_a_token_beyond_the_vocabulary(commands: Commands, trained: Path, shards: Path) -> None:
    """Forged with fitting checksums: found in training before it indexes the embedding."""
    for shard in json.loads((shards / "index.json").read_text())["shards"]:
        for block in shard["blocks"]:
            overwrite(shards / shard["name"], block["tokens_offset"] + 4, np.array([60_000], "<u2").tobytes())
    refit(shards)
    ids = "is id 60000, but its tokenizer has 257 ids, 0 to 256; run `pretrain data verify"
    commands.run("train", write_run(shards.parent, shards)).refused(3, f"{shards}: token ", ids)
    assert not list((shards.parent / "run").glob("checkpoints/*"))
    commands.run("eval", trained / "run", "--data", shards).refused(3, f"{shards}: token 2 {ids}")
    commands.run("data", "verify", shards).refused(3, "is 60000, outside the vocabulary of 257")


def test_shorter_than_a_sequence(commands: Commands, trained: Path, tmp_path: Path) -> None:
    short = build_shards(tmp_path / "short", ["a", "b", "c"])
    config = write_run(tmp_path, short)
    for command in ("train", "check"):
        commands.run(command, config).refused(
            2,
            f"{short}: 6 tokens are fewer than one sequence: batch.sequence_length 32 needs 33",
            "the longest sequence_length that fits is 5",
        )
    split = write_run(tmp_path, short, data__validation_fraction=0.5)
    commands.run("train", split).refused(2, "leaves 3 to train and 3 to validate on", "that can be split so")
    # An evaluation pads its last window, so a short text can be scored.
    assert commands.run("eval", trained / "run", "--data", short).code == 0


def forget_index(shards: Path) -> None:
    (shards / "index.json").unlink()


def unfinished(shards: Path) -> None:
    forget_index(shards)
    (shards / ".build").mkdir()


def reach_outside(shards: Path) -> None:
    index = json.loads((shards / "index.json").read_text())
    index["shards"][0]["name"] = f"../other/{FIRST}"
    (shards / "index.json").write_text(json.dumps(index))
    shutil.copytree(shards, shards.parent / "other")
    refit(shards)


INDEXES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda shards: (shards / "index.json").write_text(""), "index.json: is not an index"),
    "a flipped digit": (
        lambda shards: (shards / "index.json").write_text(
            (shards / "index.json").read_text().replace('"words": ', '"words": 1')
        ),
        "index.json: fingerprint: does not fit the rest of the index",
    ),
    "missing": (forget_index, "there are shards but no index.json; copy it over"),
    "unfinished": (unfinished, "this build is not finished; run the same `pretrain data build`"),
    "outside": (reach_outside, "shards.0.name: must be a plain file name such as '000000-000.tar'"),
}


@pytest.mark.parametrize("damage", INDEXES)
def test_a_damaged_index(commands: Commands, trained: Path, shards: Path, damage: str) -> None:
    change, message = INDEXES[damage]
    change(shards)
    refused_everywhere(commands, trained, shards, 3, str(shards), message)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
def test_members_that_reach_outside(commands: Commands, shards: Path, tmp_path: Path, kind: bytes) -> None:
    """A forged shard with fitting checksums: `verify` names the member, and training never unpacks one."""
    with tarfile.open(shards / FIRST, "a:") as tar:
        member = tarfile.TarInfo("../evil" if kind == tarfile.REGTYPE else "evil")
        member.type, member.linkname = kind, "" if kind == tarfile.REGTYPE else "/etc/passwd"
        tar.addfile(member, io.BytesIO())
    refit(shards)
    what = "its members are not those of the index: ../evil"
    if kind == tarfile.SYMTYPE:
        what = "member 'evil' is a link"
    commands.run("data", "verify", shards).refused(3, f"{FIRST}: {what}")
    assert commands.run("train", write_run(tmp_path, shards)).code == 0
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("command", ["train", "check", "parity", "verify-resume"])
def test_a_config_that_can_not_be_read(commands: Commands, tmp_path: Path, command: str) -> None:
    write_run(tmp_path / "runs", tmp_path / "shards")
    (tmp_path / "nul.yaml").write_bytes(b"run:\n  dir: a\0b\n")
    (tmp_path / "latin.yaml").write_bytes(b"run:\n  dir: caf\xe9\n")
    (tmp_path / "empty.yaml").touch()
    for name, message in {
        "runs": "is a directory; a config is a YAML file",
        "runs/confg.yaml": f"no such config file (did you mean '{tmp_path}/runs/config.yaml'?)",
        "nul.yaml": "nul.yaml:2: ",
        "latin.yaml": "latin.yaml:2: is not UTF-8 text: byte 0xe9",
        "empty.yaml": "empty.yaml:1: the file is empty",
    }.items():
        commands.run(command, tmp_path / name).refused(2, f"{tmp_path}/{name}", message)


def test_no_permission_to_read(
    good_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As another user, where root would be asked, whom the mode bits do not bind."""
    config = write_run(tmp_path, good_shards)
    open_to_all = [folder for folder in config.parents if folder.stat().st_uid == os.geteuid()]
    before = {folder: folder.stat().st_mode for folder in open_to_all}
    config.chmod(0)
    monkeypatch.setattr("sys.argv", ["pretrain", "check", str(config), "--no-data"])
    if os.geteuid() == 0:
        for folder in open_to_all:
            folder.chmod(before[folder] | 0o111)
        os.seteuid(65534)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for folder in open_to_all:
            folder.chmod(before[folder] & 0o7777)
        config.chmod(0o600)
    assert caught.value.code == 2
    assert f"{str(config)!r}: cannot be read: Permission denied" in capsys.readouterr().err
