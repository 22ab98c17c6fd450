"""Tokens and images by URL: what reads, verifies and shows them, over HTTP and from S3."""

import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_shards import build_image_shards, draw
from loopback import FileServer, serve
from shard_files import overwrite, refit
from test_data_cli import call

from data_tools import partition, remote
from data_tools.builder import BuildOptions, build
from data_tools.cache import ShardCache
from data_tools.errors import IntegrityError, UserError
from data_tools.images.reader import ImageReader
from data_tools.reader import ShardReader

KINDS = ("text", "images")


@pytest.fixture
def served(tmp_path: Path, texts: list[str], byte_path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with several small shards of both kinds."""
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 6_000)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 1000)  # shards are larger than what is read at once
    source = tmp_path / "input.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    build(BuildOptions((str(source),), byte_path, str(tmp_path / "served" / "text"), workers=1))
    build_image_shards(tmp_path / "served" / "images", 60, channels=3, size=12)
    return tmp_path / "served"


@pytest.fixture
def server(served: Path) -> Iterator[FileServer]:
    with serve(served) as found:
        yield found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def shard_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


def same_images(far: ImageReader, near: ImageReader) -> None:
    assert (len(far), far.fingerprint) == (len(near), near.fingerprint)
    assert far.labels is not None and near.labels is not None
    np.testing.assert_array_equal(far.labels, near.labels)
    assert all(far.encoded(number) == near.encoded(number) for number in range(len(near)))


def test_images_by_url_are_those_on_the_disk(served: Path, server: FileServer, tmp_path: Path) -> None:
    near, cache = ImageReader(served / "images"), ShardCache(tmp_path / "cache", 1 << 30)
    far = ImageReader(f"{server.url}/images/", cache)
    assert set(server.got) == {"index.json"}
    far.pixels(0)
    names = shard_names(served / "images")
    assert len(names) > 3
    assert sum(server.got[name] for name in names) == 1
    same_images(pickle.loads(pickle.dumps(far)), near)
    assert {name: server.got[name] for name in names} == dict.fromkeys(names, 1)


def test_failures_of_images_are_told_once(served: Path, server: FileServer, tmp_path: Path) -> None:
    near, url = ImageReader(served / "images"), f"{server.url}/images"
    first, second = near.index.shards[:2]
    cache = ShardCache(tmp_path / "cache", first.size + second.size)
    server.failures["index.json"], server.cuts[first.name] = 2, 2
    far = ImageReader(url, cache)
    assert far.encoded(0) == near.encoded(0)
    place = len(first.sizes)

    def refused(kind: type[UserError], text: str) -> None:
        with pytest.raises(kind, match=f"^{url}/{second.name}: {text}"):
            far.pixels(place)

    server.cuts[second.name] = 9
    refused(UserError, "cannot be read, tried 3 times: ")
    server.cuts.clear()
    overwrite(served / "images" / second.name, 700, b"\xff\xfe\xfd")
    refused(IntegrityError, "sha256 .* the index expects")
    (served / "images" / second.name).unlink()
    refused(UserError, "there is no such file")
    with pytest.raises(UserError, match=r"more than data.cache_bytes 99; the nearest legal is \d+"):
        ImageReader(url, ShardCache(tmp_path / "small", 99))
    with pytest.raises(UserError, match=r"images: a URL needs data.cache_dir"):
        ImageReader(url)
    with pytest.raises(UserError, match=f"^{server.url}/text: holds text, not images"):
        ImageReader(f"{server.url}/text", cache)


def test_a_full_disk_is_no_fault_of_the_server(
    served: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full is the disk."""
    cache = ShardCache(tmp_path / "cache", 1 << 30)
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr(ShardCache, "_claim", lambda *_: full())
    with pytest.raises(UserError, match=f"^data.cache_dir {tmp_path}/cache: No space left on device"):
        ImageReader(f"{server.url}/images", cache).pixels(0)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_by_url_finds_what_changed(
    served: Path, server: FileServer, temporary: Path, kind: str
) -> None:
    url = f"{server.url}/{kind}"
    assert f"{url}: good; " in call("verify", url).output
    names = shard_names(served / kind)
    overwrite(served / kind / names[0], 700, b"\xff\xfe\xfd")
    (served / kind / names[1]).unlink()
    with open(served / kind / names[2], "ab") as file:
        file.write(b"more")
    server.cuts[names[3]] = 9
    error = call("verify", url, "--workers", 1).exception
    assert isinstance(error, IntegrityError)
    assert str(error).startswith(f"{url}: 4 faults\n")
    for name, fault in zip(
        names,
        ("sha256 .*expects", "there is no such file", "bytes or more, the index", "cannot be read, tried 3"),
        strict=False,
    ):
        [line] = [line for line in str(error).splitlines() if line.startswith(f"  {name}: ")]
        assert re.search(fault, line), line
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_verify_looks_into_shards_by_url(served: Path, server: FileServer, kind: str) -> None:
    """A forged index fits the bytes, not what they mean."""
    [name, *_] = shard_names(served / kind)
    data = (served / kind / name).read_bytes()
    marks = {"text": b"\x93NUMPY", "images": b"\x89PNG"}
    overwrite(served / kind / name, data.index(marks[kind]), b"\0\0\0\0")
    refit(served / kind)
    error = call("verify", f"{server.url}/{kind}").exception
    assert isinstance(error, IntegrityError)
    assert f"  {name}: {'block' if kind == 'text' else 'image'} {name[:-4]}-000000" in str(error)


def test_inspect_by_url_reads_no_shard_but_for_documents(
    served: Path, server: FileServer, temporary: Path
) -> None:
    for kind, text in (("text", "bytes per token"), ("images", "12 x 12, colour, png")):
        result = call("inspect", f"{server.url}/{kind}")
        assert result.exit_code == 0, result.exception
        assert text in result.output
        assert "Some documents" not in result.output
    assert not any(name.endswith(".tar") for name in server.got)
    assert "Some documents" in call("inspect", f"{server.url}/text", "--documents", 2).output
    assert 0 < sum(name.endswith(".tar") for name in server.got.elements()) <= 6
    assert not list(temporary.iterdir())


def test_a_damaged_index_is_called_by_its_url(served: Path, server: FileServer) -> None:
    for kind in KINDS:
        for damage, text in (("{", "is not an index"), ('{"kind": 3}', "kind is 3 instead of")):
            (served / kind / "index.json").write_text(damage)
            error = call("verify", f"{server.url}/{kind}").exception
            assert isinstance(error, IntegrityError)
            assert str(error).startswith(f"{server.url}/{kind}/index.json: {text}")
    assert f"{server.url}/none/index.json: there is no such file" in str(
        call("inspect", f"{server.url}/none").exception
    )


def test_input_by_url_needs_no_ranges(
    tmp_path: Path, byte_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are larger than what fsspec reads at once, and one of them is divided between partitions."""
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 1 << 20)
    folder = tmp_path / "in"
    folder.mkdir()
    lines = (json.dumps({"text": f"line {number} " * 60}) + "\n" for number in range(9000))
    (folder / "a.jsonl").write_text("".join(lines))
    (folder / "b.txt").write_text("word " * 1_100_000)
    pq.write_table(pa.table({"text": ["row"] * 9}), folder / "c.parquet")
    build_near, build_far = (
        ("build", "-t", byte_path, "--workers", 1, "-o", tmp_path / name) for name in ("near", "far")
    )
    names = ("a.jsonl", "b.txt")
    assert call(*build_near, *(part for name in names for part in ("-i", folder / name))).exit_code == 0
    with serve(folder) as server:
        inputs = [part for name in names for part in ("-i", f"{server.url}/{name}")]
        result = call(*build_far, *inputs)
        assert result.exit_code == 0, result.exception
        assert shard_names(tmp_path / "far") == shard_names(tmp_path / "near")
        assert len(shard_names(tmp_path / "far")) > 3
        for name in shard_names(tmp_path / "far"):
            assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
        for name, text in (("c.parquet", "Cannot seek"), ("b.txt", "ClientPayloadError")):
            server.cuts[name] = 9 * (name == "b.txt")
            error = call(*build_far[:-1], tmp_path / name, "-i", f"{server.url}/{name}").exception
            assert isinstance(error, UserError)
            assert f"{server.url}/{name}: cannot be read: " in str(error)
            assert text in str(error)


def test_classes_come_from_a_url(served: Path, server: FileServer, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "more", 4, 12, seed=4)
    result = call(
        "images", "-i", pictures, "-o", tmp_path / "out", "--size", 12, "--classes", f"{server.url}/images"
    )
    assert result.exit_code == 0, result.exception
    assert ImageReader(tmp_path / "out").index.classes == ImageReader(served / "images").index.classes


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], Any]]:
    """Puts a folder into a bucket of a real S3-compatible server."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpus")

        def put(folder: Path, prefix: str) -> None:
            for path in folder.rglob("*"):
                if path.is_file():
                    client.upload_file(str(path), "corpus", f"{prefix}/{os.path.relpath(path, folder)}")

        yield put
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.mark.slow
def test_s3(served: Path, bucket: Callable[[Path, str], Any], tmp_path: Path) -> None:
    bucket(served, "some")
    cache = ShardCache(tmp_path / "cache", 1 << 30)
    near, far = ShardReader(served / "text"), ShardReader("s3://corpus/some/text", cache)
    np.testing.assert_array_equal(far.read(0, len(far)), near.read(0, len(near)))
    same_images(ImageReader("s3://corpus/some/images", cache), ImageReader(served / "images"))
    for kind in KINDS:
        assert call("inspect", f"s3://corpus/some/{kind}").exit_code == 0
        overwrite(served / kind / shard_names(served / kind)[0], 700, b"\xff\xfe\xfd")
    bucket(served, "damaged")
    for kind in KINDS:
        assert "good; " in call("verify", f"s3://corpus/some/{kind}", "--workers", 2).output
        error = call("verify", f"s3://corpus/damaged/{kind}").exception
        assert f"s3://corpus/damaged/{kind}: 1 fault\n" in str(error)
    with pytest.raises(UserError, match=r"s3://corpus/no/index.json: there is no such file"):
        ShardReader("s3://corpus/no", cache)
