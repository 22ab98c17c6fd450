"""Every source of images gives the same shards, and every number of workers the same bytes."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import webdataset
from image_shards import draw
from PIL import Image
from shard_files import digests, overwrite, refit

from data_tools import partition
from data_tools.errors import IntegrityError, UserError
from data_tools.images.builder import ImageBuildOptions, ImageReport, build_images
from data_tools.images.reader import ImageReader
from data_tools.images.verify import verify_images
from data_tools.parts import build_part, divide, missing_parts


def run(*inputs: Path | str, output: Path, **options: Any) -> ImageReport:
    arguments = {"size": 8, "workers": 1, **options}
    return build_images(ImageBuildOptions(tuple(map(str, inputs)), str(output), **arguments))


def all_pixels(path: Path) -> list[bytes]:
    reader = ImageReader(path)
    return [reader.pixels(number).tobytes() for number in range(len(reader))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pictures") / "all", 30, classes=3)


def as_tar(pictures: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(pictures.rglob("*.png")):
            for name, data in (("png", file.read_bytes()), ("cls", file.parent.name.encode())):
                member = tarfile.TarInfo(f"part/{file.stem}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def as_parquet(pictures: Path, path: Path, *, struct: bool) -> Path:
    files = sorted(pictures.rglob("*.png"))
    images = [file.read_bytes() for file in files]
    column = [{"bytes": data, "path": "x"} for data in images] if struct else images
    labels = [int(file.parent.name) for file in files]
    table = pyarrow.table({"image": column, "label": labels})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path


def test_every_source_gives_the_same_shards(pictures: Path, tmp_path: Path) -> None:
    run(pictures, output=tmp_path / "folder")
    expected = digests(tmp_path / "folder")
    sources = {
        "glob": f"{pictures}/*/*.png",
        "tar": as_tar(pictures, tmp_path / "a.tar"),
        "parquet": as_parquet(pictures, tmp_path / "a.parquet", struct=False),
        "hugging-face": as_parquet(pictures, tmp_path / "b.parquet", struct=True),
        "shards": f"{tmp_path}/folder/*.tar",
    }
    for name, source in sources.items():
        report = run(source, output=tmp_path / "out" / name)
        assert report.index.classes == ("0", "1", "2")
        assert digests(tmp_path / "out" / name) == expected, name


def test_workers_do_not_change_a_byte(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 1000)
    for workers in (1, 3):
        report = run(pictures, output=tmp_path / str(workers), workers=workers)
        assert report.partitions > 3
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_a_killed_build_goes_on_and_a_finished_one_does_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 1000)
    run(pictures, output=tmp_path / "whole")
    from data_tools.images import builder

    honest, count = builder.ImageJob.__call__, 0

    def killed(self: Any, part: Any, report: Any) -> Any:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        return honest(self, part, report)

    with monkeypatch.context() as patch:
        patch.setattr(builder.ImageJob, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(pictures, output=tmp_path / "broken")
    with pytest.raises(
        IntegrityError, match="this build is not finished; run the same `pretrain data images`"
    ):
        ImageReader(tmp_path / "broken")
    with pytest.raises(UserError, match="size was 8, now 4"):
        run(pictures, output=tmp_path / "broken", size=4)
    assert run(pictures, output=tmp_path / "broken").resumed == 2
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")
    again = run(pictures, output=tmp_path / "whole")
    assert again.resumed == again.partitions


def test_parts_by_several_processes_are_the_whole(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "SMALLEST_TARGET", 1000)
    run(pictures, output=tmp_path / "whole")
    work = divide(ImageBuildOptions((str(pictures),), str(tmp_path / "parts"), 8, workers=1))
    with pytest.raises(UserError, match="no build was prepared here"):
        build_part(work, 1, 2)
    assert missing_parts(work, 2) == [1, 2]
    count, before = build_part(work, 2, 2)
    assert (count > 1, before) == (True, 0)
    assert missing_parts(work, 2) == [1]
    build_part(work, 1, 2)
    report = run(pictures, output=tmp_path / "parts")
    assert report.resumed == report.partitions
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert missing_parts(work, 2) is None
    with pytest.raises(UserError, match="parts are counted from 1 to 2"):
        build_part(work, 3, 2)


def test_stock_webdataset_reads_images_and_classes(pictures: Path, tmp_path: Path) -> None:
    run(pictures, output=tmp_path / "out", channels=1)
    reader = ImageReader(tmp_path / "out")
    urls = [str(tmp_path / "out" / shard.name) for shard in reader.index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["cls"] for sample in samples] == [0] * 10 + [1] * 10 + [2] * 10
    assert reader.labels is not None and reader.labels.tolist() == [sample["cls"] for sample in samples]
    for number, sample in enumerate(samples):
        assert np.array_equal(np.asarray(sample["png"].convert("L")), reader.pixels(number)[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_webp_holds_the_same_pixels(pictures: Path, tmp_path: Path, channels: int) -> None:
    for encoding in ("png", "webp"):
        run(pictures, output=tmp_path / encoding, encoding=encoding, channels=channels)
    assert all_pixels(tmp_path / "png") == all_pixels(tmp_path / "webp")
    assert ImageReader(tmp_path / "png").pixels(0).shape == (channels, 8, 8)


def test_the_middle_square_is_kept_and_shrunk_with_antialiasing(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    wide[:, 8:16:2] = 100
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(wide).save(folder / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(folder / "high.png")
    run(folder, output=tmp_path / "same")
    high, across = (ImageReader(tmp_path / "same").pixels(number) for number in range(2))
    assert np.array_equal(across, wide[:, 8:16].transpose(2, 0, 1))
    assert np.array_equal(high, across.transpose(0, 2, 1))
    run(folder, output=tmp_path / "small", size=2)
    small = ImageReader(tmp_path / "small").pixels(1)
    assert abs(small.astype(int) - 150).max() <= 20  # the mean of the stripes, not one of them
    assert run(folder, output=tmp_path / "large", size=16).enlarged == 2


def test_flat_folders_have_no_classes_and_numbers_sort_as_numbers(tmp_path: Path) -> None:
    draw(tmp_path / "flat", 6, classes=0)
    report = run(tmp_path / "flat", output=tmp_path / "a")
    assert (report.index.classes, ImageReader(tmp_path / "a").labels) == ((), None)
    draw(tmp_path / "many", 12, size=12, classes=12)
    assert run(tmp_path / "many", output=tmp_path / "b").index.classes == tuple(map(str, range(12)))
    none = run(tmp_path / "many", output=tmp_path / "c", labels=False)
    assert none.index.classes == ()
    some = draw(tmp_path / "some", 6, classes=3)
    assert run(some, output=tmp_path / "d", classes=str(tmp_path / "b")).index.classes[11] == "11"


def test_verify_finds_what_changed(pictures: Path, tmp_path: Path) -> None:
    run(pictures, output=tmp_path / "good")
    assert verify_images(str(tmp_path / "good")).faults == ()
    place = ImageReader(tmp_path / "good").index.shards[0]
    shard = tmp_path / "good" / place.name
    overwrite(shard, place.offsets[2] + 30, b"????")
    overwrite(shard, place.offsets[5] - 1024, b"2")
    faults = verify_images(str(tmp_path / "good")).faults
    assert "its bytes have changed" in faults[0]
    assert any("image 000000-000-000002 not a readable image" in fault for fault in faults)
    assert any("image 000000-000-000005 is of class b'2', the index expects 0" in fault for fault in faults)
    refit(tmp_path / "good")
    assert len(verify_images(str(tmp_path / "good")).faults) == len(faults) - 1
    (tmp_path / "good" / "zz.tar").write_bytes(b"")
    assert "zz.tar: not in the index" in verify_images(str(tmp_path / "good")).faults[0]
    os.truncate(shard, 100)
    with pytest.raises(IntegrityError, match=r"100 bytes, the index expects"):
        ImageReader(tmp_path / "good")


def test_a_forged_index_is_refused(pictures: Path, tmp_path: Path) -> None:
    run(pictures, output=tmp_path / "a")
    path = tmp_path / "a" / "index.json"
    honest = path.read_text()
    for old, new, said in (
        ('"image_size":8', '"image_size":0', "image_size: Input should be greater than or equal to 1, got 0"),
        ('"channels":3', '"channels":2', "channels: Input should be 1 or 3, got 2"),
        ('"images":30', '"images":31', "images: is 31, but the shards add up to 30"),
        ('"classes":["0","1","2"]', '"classes":["0","1"]', "labels"),
        ('"png"', '"jpg"', "encoding: Input should be 'png' or 'webp', got 'jpg'"),
        ('"offsets":[', '"offsets":[9999999,', "sizes: has 30 entries for 31 images"),
        ('"labels":[0', '"labels":[1', "fingerprint: does not fit the rest"),
    ):
        assert old in honest
        path.write_text(honest.replace(old, new, 1))
        with pytest.raises(IntegrityError, match=said):
            ImageReader(tmp_path / "a")
