"""Shards by URL are those on the disk, through a cache of bounded size that processes share."""

import json
import multiprocessing
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import FileServer, serve
from shard_files import overwrite

from data_tools import partition, remote
from data_tools.builder import BuildOptions, build
from data_tools.cache import ShardCache
from data_tools.errors import IntegrityError, UserError
from data_tools.reader import ShardReader
from data_tools.verify import verify


@pytest.fixture
def directory(tmp_path: Path, texts: list[str], tokenizer_path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Several small shards."""
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 6_000)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 1000)  # shards are larger than what is read at once
    source = tmp_path / "input.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    build(BuildOptions((str(source),), tokenizer_path, str(tmp_path / "served" / "shards"), workers=1))
    return tmp_path / "served" / "shards"


@pytest.fixture
def server(directory: Path) -> Iterator[FileServer]:
    with serve(directory.parent) as served:
        yield served


def kept(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.directory.iterdir() if path.suffix in (".tar", ".part")}


def test_a_url_gives_what_the_disk_does(directory: Path, server: FileServer, tmp_path: Path) -> None:
    local, cache = ShardReader(directory), ShardCache(tmp_path / "cache", 1 << 30)
    far = ShardReader(f"{server.url}/shards", cache)
    assert (len(far), far.fingerprint) == (len(local), local.fingerprint)
    assert far.tokenizer().fingerprint == local.tokenizer().fingerprint
    assert not any(name.endswith(".tar") for name in server.got)  # nothing yet but the index
    far.read(0, 10)
    assert sum(name.endswith(".tar") for name in server.got) == 1
    np.testing.assert_array_equal(far.read(0, len(far)), local.read(0, len(local)))
    np.testing.assert_array_equal(far.document_starts(0, len(far)), local.document_starts(0, len(local)))
    again = pickle.loads(pickle.dumps(far))
    again.read(0, len(again))
    names = [shard.name for shard in local.index.shards]
    assert len(names) > 3
    assert {name: server.got[name] for name in names} == dict.fromkeys(names, 1)


def test_the_cache_stays_within_its_bound(directory: Path, server: FileServer, tmp_path: Path) -> None:
    local = ShardReader(directory)
    shards = local.index.shards
    limit = sum(sorted(shard.size for shard in shards)[-2:])
    cache = ShardCache(tmp_path / "cache", limit)
    far = ShardReader(f"{server.url}/shards/", cache)
    starts = np.cumsum([0, *(sum(block.tokens for block in shard.blocks) for shard in shards)])
    for number in (0, 1, 0, 2, 3, 0):
        start = int(starts[number])
        np.testing.assert_array_equal(far.read(start, start + 9), local.read(start, start + 9))
        assert sum(path.stat().st_size for path in cache.directory.glob("*.tar")) <= limit
        assert f"{shards[number].sha256}.tar" in kept(cache)
    assert server.got[shards[0].name] == 2  # it made room for the others, and came back
    with pytest.raises(UserError, match=r"more than data.cache_bytes 99; the nearest legal is \d+"):
        ShardReader(f"{server.url}/shards", ShardCache(tmp_path / "small", 99))


def test_what_another_process_has_opened_stays(directory: Path, server: FileServer, tmp_path: Path) -> None:
    shards = ShardReader(directory).index.shards
    cache = ShardCache(tmp_path / "cache", sum(sorted(shard.size for shard in shards)[-2:]))
    for number in (0, 1, 0, 2):
        cache.open(f"{server.url}/shards/{shards[number].name}", shards[number]).close()
    assert kept(cache) == {f"{shards[number].sha256}.tar" for number in (0, 2)}


def test_a_download_that_is_done_touches_no_other(
    directory: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have dropped the shard since, and be loading it again."""
    cache, [shard, *_] = ShardCache(tmp_path / "cache", 1 << 30), ShardReader(directory).index.shards
    other, replace = cache.directory / f"{shard.sha256}.part", os.replace

    def replace_and_begin_anew(source: Path, target: Path) -> None:
        replace(source, target)
        other.write_bytes(b"of another")

    monkeypatch.setattr(os, "replace", replace_and_begin_anew)
    cache.open(f"{server.url}/shards/{shard.name}", shard).close()
    assert other.read_bytes() == b"of another"


def test_failures_are_tried_again_and_told_once(directory: Path, server: FileServer, tmp_path: Path) -> None:
    cache, url = ShardCache(tmp_path / "cache", 1 << 30), f"{server.url}/shards"
    first = ShardReader(directory).index.shards[0]
    server.failures.update({"index.json": 2, first.name: 1})
    server.cuts[first.name] = 1
    reader = ShardReader(url, cache)
    reader.read(0, 5)
    assert server.got[first.name] == 2  # one of them was cut off
    second = ShardReader(directory).index.shards[1]
    server.failures[second.name] = 9
    with pytest.raises(UserError, match=f"{url}/{second.name}: cannot be read, tried 3 times: ") as told:
        reader.read(0, len(reader))
    assert told.value.exit_code == 2
    assert kept(cache) == {f"{first.sha256}.tar"}
    server.failures.clear()
    server.cuts[second.name] = 9
    with pytest.raises(UserError, match=f"{second.name}: cannot be read, tried 3 times: "):
        reader.read(0, len(reader))
    server.cuts.clear()
    overwrite(directory / second.name, 2000, b"\xff\xfe\xfd")
    with pytest.raises(IntegrityError, match=f"{url}/{second.name}: sha256 .* the index expects"):
        reader.read(0, len(reader))
    with open(directory / second.name, "ab") as file:
        file.write(b"more")
    with pytest.raises(IntegrityError, match=f"{second.size + 4} bytes or more, the index expects"):
        reader.read(0, len(reader))
    (directory / second.name).unlink()
    with pytest.raises(UserError, match=f"{second.name}: there is no such file"):
        reader.read(0, len(reader))
    assert kept(cache) == {f"{first.sha256}.tar"}


def test_what_is_refused(directory: Path, server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a URL needs data.cache_dir"):
        ShardReader(f"{server.url}/shards")
    with pytest.raises(UserError, match=r"index.json: there is no such file"):
        ShardReader(f"{server.url}/nothing", ShardCache(tmp_path / "cache", 1 << 30))
    with pytest.raises(UserError, match=r"nosuch://a/index.json: Protocol not known: nosuch"):
        ShardReader("nosuch://a", ShardCache(tmp_path / "cache", 1 << 30))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data.cache_dir .*file"):
        ShardReader(f"{server.url}/shards", ShardCache(tmp_path / "file", 1 << 30)).read(0, 1)
    with pytest.raises(UserError, match=r"a URL needs data.cache_dir"):
        verify(f"{server.url}/shards")


def test_a_download_that_was_killed_is_begun_anew(
    directory: Path, server: FileServer, tmp_path: Path
) -> None:
    local = ShardReader(directory)
    first, second = local.index.shards[:2]
    cache = ShardCache(tmp_path / "cache", first.size + second.size)
    cache.directory.mkdir(mode=0o700)
    for shard in (first, second):  # their bytes count, until somebody needs the room
        (cache.directory / f"{shard.sha256}.part").write_bytes(b"\0" * shard.size)
    (cache.directory / f"{first.sha256}.tar").write_bytes(b"short")
    far = ShardReader(f"{server.url}/shards", cache)
    np.testing.assert_array_equal(far.read(0, 9), local.read(0, 9))
    assert f"{first.sha256}.part" not in kept(cache)


Harm = Callable[[Path, Path], None]


def flip(kept: Path, elsewhere: Path) -> None:
    """Another byte in the middle, as a bad disk has it: size and times stay."""
    found = kept.stat()
    overwrite(kept, found.st_size // 2, bytes([kept.read_bytes()[found.st_size // 2] ^ 1]))
    os.utime(kept, ns=(found.st_atime_ns, found.st_mtime_ns))


def swap(kept: Path, elsewhere: Path) -> None:
    """A link to a file of the same size with other bytes."""
    elsewhere.write_bytes(bytes(kept.stat().st_size))
    kept.unlink()
    kept.symlink_to(elsewhere)


def pipe(kept: Path, elsewhere: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)


def shorten(kept: Path, elsewhere: Path) -> None:
    os.truncate(kept, kept.stat().st_size - 1)


HARMS: dict[str, tuple[Harm, str]] = {
    "flipped": (flip, "has changed since it was downloaded"),
    "a link": (swap, "is a link"),
    "a pipe": (pipe, "is a pipe and not a plain file"),
    "short": (shorten, r"holds \d+ bytes instead of \d+"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_kept_shard_is_not_believed(
    directory: Path, server: FileServer, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    local, cache = ShardReader(directory), ShardCache(tmp_path / "cache", 1 << 30)
    first, url = local.index.shards[0], f"{server.url}/shards"
    ShardReader(url, cache).read(0, 9)
    do, message = HARMS[harm]
    do(cache.path(first), tmp_path / "elsewhere")
    new_process = ShardCache(cache.directory, cache.limit)
    for _ in range(2):
        size = sum(block.tokens for block in first.blocks)
        np.testing.assert_array_equal(ShardReader(url, new_process).read(0, size), local.read(0, size))
    assert server.got[first.name] == 2
    [told] = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        f"data.cache_dir {cache.directory}: {first.sha256}.tar {message}; it is downloaded again", told
    )
    if harm == "a link":
        assert (tmp_path / "elsewhere").read_bytes() == bytes(first.size)


def test_a_kept_index_and_tokenizer_are_not_believed(
    directory: Path, server: FileServer, tmp_path: Path, byte_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    local, cache, url = (
        ShardReader(directory),
        ShardCache(tmp_path / "cache", 1 << 30),
        f"{server.url}/shards",
    )
    ShardReader(url, cache)
    [folder] = (cache.directory / "indices").iterdir()
    (tmp_path / "other.jsonl").write_text('{"text": "other words"}\n' * 100)
    build(BuildOptions((str(tmp_path / "other.jsonl"),), byte_path, str(tmp_path / "other"), workers=1))

    def foreign(name: str) -> Callable[[], object]:
        return lambda: (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())

    harms: list[tuple[str, Callable[[], object]]] = [
        ("index.json", lambda: flip(folder / "index.json", tmp_path)),
        ("index.json", foreign("index.json")),
        ("index.json", lambda: swap(folder / "index.json", tmp_path / "elsewhere")),
        ("tokenizer/tokenizer.json", foreign("tokenizer/tokenizer.json")),
        ("tokenizer/tokenizer.model", lambda: flip(folder / "tokenizer" / "tokenizer.model", tmp_path)),
        ("tokenizer/tokenizer.model", (folder / "tokenizer" / "tokenizer.model").unlink),
    ]
    for name, do in harms:
        do()
        caplog.clear()
        far = ShardReader(url, cache)
        assert far.index == local.index
        assert far.tokenizer().fingerprint == local.tokenizer().fingerprint
        [told] = [record.getMessage() for record in caplog.records]
        assert told == f"data.cache_dir {cache.directory}: {folder / name} has changed; it is fetched again"


def test_planted_links_are_not_followed(directory: Path, server: FileServer, tmp_path: Path) -> None:
    cache, shard = ShardCache(tmp_path / "cache", 1 << 30), ShardReader(directory).index.shards[0]
    cache.directory.mkdir(mode=0o700)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (cache.directory / f"{shard.sha256}.part").symlink_to(precious)
    cache.open(f"{server.url}/shards/{shard.name}", shard).close()
    (cache.directory / "lock").unlink()
    (cache.directory / "lock").symlink_to(precious)
    with pytest.raises(UserError, match=f"^data.cache_dir {cache.directory}/lock: is a link$"):
        cache.open(f"{server.url}/shards/{shard.name}", shard)
    assert precious.read_text() == "precious"


def test_a_cache_is_the_users_alone(
    directory: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, url = ShardCache(tmp_path / "cache", 1 << 30), f"{server.url}/shards"
    ShardReader(url, cache).read(0, 9)
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    cache.directory.chmod(0o1777)
    with pytest.raises(
        UserError, match=r"cache: may be written by other users \(mode 1777\); `chmod go-w` it"
    ):
        ShardReader(url, cache)
    cache.directory.chmod(0o755)
    user = os.geteuid()
    with monkeypatch.context() as other:
        other.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(UserError, match=f"cache: belongs to user {user}; name a folder of your own"):
            ShardReader(url, cache)
    (tmp_path / "link").symlink_to(cache.directory)
    ShardReader(url, ShardCache(tmp_path / "link", 1 << 30)).read(0, 9)


def test_room_is_made_by_shards_alone(directory: Path, server: FileServer, tmp_path: Path) -> None:
    shards = ShardReader(directory).index.shards
    cache = ShardCache(tmp_path / "cache", max(shard.size for shard in shards))
    cache.directory.mkdir(mode=0o700)
    (cache.directory / "photos.tar").write_bytes(b"x" * 100_000)
    for shard in shards[:2]:
        cache.open(f"{server.url}/shards/{shard.name}", shard).close()
    assert kept(cache) == {"photos.tar", f"{shards[1].sha256}.tar"}


def _read_all(url: str, cache: ShardCache, expected: bytes) -> None:
    reader = ShardReader(url, cache)
    assert reader.read(0, len(reader)).tobytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("shards_that_fit", [2, 100])
def test_processes_share_the_cache(
    directory: Path, server: FileServer, tmp_path: Path, shards_that_fit: int
) -> None:
    local = ShardReader(directory)
    largest = max(shard.size for shard in local.index.shards)
    cache = ShardCache(tmp_path / "cache", shards_that_fit * largest)
    context = multiprocessing.get_context("spawn")
    arguments = (f"{server.url}/shards", cache, local.read(0, len(local)).tobytes())
    processes = [context.Process(target=_read_all, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    if shards_that_fit == 100:
        assert {server.got[shard.name] for shard in local.index.shards} == {1}
    assert sum(path.stat().st_size for path in cache.directory.glob("*.tar")) <= cache.limit
