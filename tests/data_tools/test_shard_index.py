"""The index is read as it was written or refused, whatever happens to it."""

import contextlib
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import IntegrityError, UserError
from data_tools.index import (
    Block,
    Shard,
    ShardIndex,
    make_index,
    read_index,
    write_index,
)
from data_tools.index_file import content_fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def small_index(**changes: Any) -> ShardIndex:
    blocks = (Block("a-0", 1152, 10, 640, 2), Block("a-1", 3200, 5, 2688, 1))
    content: dict[str, Any] = {
        "dtype": "uint16",
        "tokenizer_fingerprint": "0" * 64,
        "vocab_size": 300,
        "eod_id": 1,
        "tokens": 15,
        "documents": 3,
        "bytes": 40,
        "words": 7,
        "shards": (Shard("a.tar", 10240, "1" * 64, blocks),),
    }
    return make_index(**{**content, **changes})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at `path` replaced."""
    if not path:
        return value
    copy = json.loads(json.dumps(document))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return copy


def test_round_trip(tmp_path: Path) -> None:
    write_index(tmp_path, small_index())
    assert read_index(tmp_path) == small_index()
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


def assert_equal_or_refused(folder: Path, text: bytes) -> None:
    (folder / "index.json").write_bytes(text)
    try:
        found = read_index(folder)
    except UserError as error:
        assert str(error).startswith(str(folder))
        assert "\n" not in str(error)
    else:
        assert found == small_index()


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_any_changed_value_is_refused(folder: Path, data: st.DataObject) -> None:
    document = json.loads(json.dumps(asdict(small_index())))
    path = data.draw(st.sampled_from(places(document)))
    mutated = changed(document, path, data.draw(JSON))
    if (
        data.draw(st.booleans()) and isinstance(mutated, dict) and "fingerprint" in mutated
    ):  # a forger's change
        rest = {key: value for key, value in mutated.items() if key != "fingerprint"}
        mutated["fingerprint"] = content_fingerprint(rest)
        (folder / "index.json").write_text(json.dumps(mutated))
        with contextlib.suppress(UserError):
            read_index(folder)
        return
    assert_equal_or_refused(folder, json.dumps(mutated).encode())


@pytest.mark.slow
@settings(max_examples=1800, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3))
def test_any_changed_byte_is_refused(folder: Path, seed: int, kind: int) -> None:
    raw = bytearray(json.dumps(asdict(small_index())).encode())
    generator = random.Random(seed)
    place = generator.randrange(len(raw))
    if kind == 0:
        raw[place] ^= 1 << generator.randrange(8)
    elif kind == 1:
        del raw[place:]
    elif kind == 2:
        del raw[place : place + generator.randrange(1, 40)]
    else:
        raw[place:place] = raw[: generator.randrange(1, 40)]
    assert_equal_or_refused(folder, bytes(raw))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1e999", "[" * 100_000, '{"a": 1, "a": 2}', "1" * 10_000, "\x00"]
)
def test_not_an_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(IntegrityError):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "name", ["../a.tar", "/etc/a.tar", "..", "x/a.tar", "a.tar\x00", "a.zip", ".a.tar", "", "a\n.tar"]
)
def test_names_outside_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    shard = Shard(name, 10240, "1" * 64, small_index().shards[0].blocks)
    write_index(tmp_path, small_index(shards=(shard,)))
    with pytest.raises(IntegrityError, match=r"shards\.0\.name: must be a plain file name"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 16}, "tokens: is 16, but the blocks add up to 15"),
        ({"documents": 2}, "documents: is 2, but the blocks add up to 3"),
        ({"eod_id": 300}, "eod_id: is 300, outside 0 to 299"),
        ({"dtype": "uint32"}, "is stored as 'uint16'"),
        ({"vocab_size": 70_000}, "is stored as 'uint32'"),
        ({"shards": (Shard("a.tar", 3209, "1" * 64, small_index().shards[0].blocks),)}, "ends at byte 3210"),
        ({"shards": small_index().shards * 2, "tokens": 30, "documents": 6}, "names a shard twice"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_index(tmp_path, small_index(**changes))
    with pytest.raises(IntegrityError, match=message):
        read_index(tmp_path)


def test_another_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"format_version": 2}')
    with pytest.raises(IntegrityError, match="format_version 2 is not known; this version reads 1"):
        read_index(tmp_path)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        read_index(tmp_path / "none")
    with pytest.raises(UserError, match="not a shard directory") as error:
        read_index(tmp_path)
    assert error.value.exit_code == 2
    (tmp_path / "000000-000.tar").touch()
    with pytest.raises(IntegrityError, match="there are shards but no index"):
        read_index(tmp_path)
    (tmp_path / ".build").mkdir()
    with pytest.raises(IntegrityError, match="not finished"):
        read_index(tmp_path)
