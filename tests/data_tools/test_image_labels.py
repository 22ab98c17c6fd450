"""Labels of pictures: a class by its name, or no class and said so; folders that are no classes."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from image_shards import draw
from PIL import Image

from data_tools.bad_records import BadRecord
from data_tools.errors import UserError
from data_tools.images.builder import ImageBuildOptions, ImageReport, build_images
from data_tools.images.reader import ImageReader
from data_tools.partition import Unit
from data_tools.records import Document, ReadOptions, read_documents
from data_tools.sources import find_inputs


def run(*inputs: Path | str, output: Path, **options: Any) -> ImageReport:
    return build_images(
        ImageBuildOptions(tuple(map(str, inputs)), str(output), **{"size": 4, "workers": 1, **options})
    )


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path: Path, labels: Any, names: list[str] | None = None, kind: str = "ClassLabel") -> Path:
    table = pyarrow.table({"image": [picture()] * len(labels), "label": labels})
    if names is not None:  # as `datasets` writes it
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": kind}}
        told = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": told})
    pyarrow.parquet.write_table(table, path)
    return path


def named(path: Path) -> list[str]:
    """The name of every picture's class."""
    reader = ImageReader(path)
    assert reader.labels is not None
    return [reader.index.classes[number] for number in reader.labels]


def test_a_class_label_keeps_its_names_and_numbers(tmp_path: Path) -> None:
    names = ["zebra", "cat", "dog"]
    report = run(parquet(tmp_path / "a.parquet", [0, 2, 0], names), output=tmp_path / "a")
    assert report.index.classes == ("zebra", "cat", "dog")  # the class without a picture too
    assert named(tmp_path / "a") == ["zebra", "dog", "zebra"]
    swapped = parquet(tmp_path / "b.parquet", [0, 1], ["dog", "zebra"])
    run(swapped, output=tmp_path / "b", classes=str(tmp_path / "a"))
    assert named(tmp_path / "b") == ["dog", "zebra"]
    with pytest.raises(UserError, match=r"b\.parquet: its ClassLabel lists dog, zebra; that of .*a\.parquet"):
        run(tmp_path / "a.parquet", swapped, output=tmp_path / "c")
    bare = parquet(tmp_path / "bare.parquet", [0, 1])
    with pytest.raises(
        UserError, match="'0' is a class of some files, and not among the 3 that a ClassLabel"
    ):
        run(tmp_path / "a.parquet", bare, output=tmp_path / "d")
    with pytest.raises(UserError, match=r"row 2: its label 3 is none of the 3 classes that the file lists"):
        run(parquet(tmp_path / "e.parquet", [0, 3], names), output=tmp_path / "e")
    twice = parquet(tmp_path / "f.parquet", [0, 1], ["cat", "cat"])
    with pytest.raises(UserError, match="ClassLabel of column 'label' names a class twice"):
        run(twice, output=tmp_path / "f")
    assert run(
        parquet(tmp_path / "g.parquet", [0, 1], names, "Other"), output=tmp_path / "g"
    ).index.classes == (*("0", "1"),)


@pytest.mark.slow
def test_what_datasets_itself_writes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = {"image": [{"bytes": picture(), "path": None}] * 2, "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", output=tmp_path / "out")
    assert named(tmp_path / "out") == ["b", "a"]


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_the_number_of_no_class_is_told(tmp_path: Path, names: list[str] | None) -> None:
    path = parquet(tmp_path / "a.parquet", [1, -1, 0], names)
    with pytest.raises(
        UserError, match=r"a\.parquet, row 2: its label -1 is the number of no class \(--labels"
    ):
        run(path, output=tmp_path / "stopped")
    report = run(path, output=tmp_path / "out", max_bad_records=1)
    assert report.index.classes == tuple(names or ("0", "1"))
    assert named(tmp_path / "out") == [report.index.classes[1], report.index.classes[0]]


def test_whole_numbers_stored_as_floats_are_classes_and_others_are_none(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [1.0, float("nan"), 0.5, float("inf"), 10.0, 2.0])
    report = run(path, output=tmp_path / "out", max_bad_records=3)
    assert [record.where for record in report.skipped] == ["row 2", "row 3", "row 4"]
    assert report.index.classes == ("1", "2", "10")
    assert named(tmp_path / "out") == ["1", "10", "2"]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([[1], [0, 1]], "list<element: int64>"),
        ([b"a", b"b"], "binary"),
        ([{"a": 1}, None], "struct<a: int64>"),
    ],
)
def test_labels_of_another_type_are_refused(tmp_path: Path, labels: list[Any], kind: str) -> None:
    path = parquet(tmp_path / "a.parquet", labels)
    with pytest.raises(UserError, match=f"column 'label' is of type {kind}, neither numbers nor text"):
        run(path, output=tmp_path / "out")
    assert run(path, output=tmp_path / "none", labels=False).index.classes == ()


@pytest.mark.parametrize("twice", ["image", "label"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, twice: str) -> None:
    columns = {"image": pyarrow.array([picture()] * 2), "label": pyarrow.array([0, 1])}
    names = [*columns, twice]
    table = pyarrow.Table.from_arrays([columns[name] for name in names], names=names)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet: column '{twice}' stands 2 times"):
        run(tmp_path / "a.parquet", output=tmp_path / "out")


def documents(path: Path, text_key: str) -> list[str]:
    (file,) = find_inputs([str(path)]).files
    found = list(read_documents(Unit(file, 0, None, file.size), ReadOptions(text_key)))
    assert not [record for record in found if isinstance(record, BadRecord)]
    return ["".join(record.parts) for record in found if isinstance(record, Document)]


def test_a_text_column_is_read_by_its_whole_name(tmp_path: Path) -> None:
    text = pyarrow.array(["one", "two"])
    nested = pyarrow.array([{"b": 1}, {"b": 2}])
    other = pyarrow.array(["x", "y"])
    for name, table in (
        ("a.b", pyarrow.Table.from_arrays([nested, text], names=["a", "a.b"])),
        ("text", pyarrow.Table.from_arrays([other, text], names=["text.raw", "text"])),
    ):
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert documents(tmp_path / "a.parquet", name) == ["one", "two"]
    twice = pyarrow.Table.from_arrays([text, other], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column 'text' stands 2 times"):
        documents(tmp_path / "a.parquet", "text")


def test_a_tars_number_of_no_class_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, label in (("a", b"-1"), ("b", b"3")):
            for ending, data in (("png", picture()), ("cls", label)):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match=r"sample a: a\.cls holds -1, the number of no class"):
        run(tmp_path / "a.tar", output=tmp_path / "stopped")
    assert run(tmp_path / "a.tar", output=tmp_path / "out", max_bad_records=1).index.classes == ("3",)


def test_folders_that_are_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "Test"):
        draw(tmp_path / "shapes" / part, 4)
    with pytest.raises(UserError, match=r"shapes: its folders Test, train are named as .*shapes/Test\)"):
        run(tmp_path / "shapes", output=tmp_path / "out")
    assert run(tmp_path / "shapes" / "train", output=tmp_path / "a").index.classes == ("0", "1")
    assert run(tmp_path / "shapes", output=tmp_path / "b", labels=False).index.images == 8
    draw(tmp_path / "shapes" / "bus", 4)
    assert run(tmp_path / "shapes", output=tmp_path / "c").index.classes == ("Test", "bus", "train")
