"""`pretrain check` with data: the shards are opened, and all their problems are reported together."""

from pathlib import Path

import pytest
from config_files import write_config
from text_shards import build_shards

from data_tools.tokenizer import byte_tokenizer
from pretrain.commands.check import check_command
from pretrain.errors import IntegrityError, UserError

DOCUMENTS = [f"Document {number} of some words that differ, {number * 7919}." for number in range(40)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(tmp_path_factory.mktemp("check") / "shards", DOCUMENTS)


def check(path: str, *overrides: str) -> None:
    check_command(path, overrides, None, show=False, data=True)


def test_sizes_that_follow_from_the_data_are_printed(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "a.yaml", data__train=str(shards), data__validation_fraction=0.2)
    check_command(path, [], 2, show=False, data=True)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    tokens = sum(len(text.encode()) + 1 for text in DOCUMENTS)
    assert "vocabulary 257 ids, padded to 384 rows" in lines
    samples = next(line for line in lines if line.startswith("training samples"))
    assert int(samples.split()[2].rstrip(";")) == pytest.approx(0.8 * tokens / 64, abs=2)
    assert lines[-1].endswith("no problem found")


def test_problems_of_several_sources_are_reported_together(shards: Path, tmp_path: Path) -> None:
    short = build_shards(tmp_path / "short", ["a", "b", "c"])
    train = ["nowhere", str(shards), str(short)]
    path = write_config(tmp_path / "a.yaml", data__train=train, data__validation="nothing")
    with pytest.raises(UserError) as caught:
        check(path)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith("3 problems")
    assert "data.train: nowhere: there is no such directory" in message
    assert f"{short}: 6 tokens are fewer than one sequence" in message
    assert "data.validation: nothing: there is no such directory" in message
    assert f"{path}:16: data.train: nowhere" in message


def test_shards_of_another_tokenizer_are_refused(shards: Path, tmp_path: Path) -> None:
    from data_tools.train_tokenizer import train_tokenizer

    other = train_tokenizer(DOCUMENTS, "char")
    other.save(tmp_path / "tokenizer")
    path = write_config(
        tmp_path / "a.yaml", data__train=str(shards), data__tokenizer=str(tmp_path / "tokenizer")
    )
    with pytest.raises(UserError, match="the shards were built with tokenizer"):
        check(path)
    byte_tokenizer().save(tmp_path / "right")
    check(path, f"data.tokenizer={tmp_path / 'right'}")


def test_damaged_shards_alone_are_an_integrity_failure(tmp_path: Path) -> None:
    damaged = build_shards(tmp_path / "damaged", DOCUMENTS)
    shard = next(damaged.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512])
    path = write_config(tmp_path / "a.yaml", data__train=str(damaged))
    with pytest.raises(IntegrityError, match=shard.name) as caught:
        check(path)
    assert caught.value.exit_code == 3
