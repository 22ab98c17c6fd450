"""Every reader of files that others may write, on thousands of damaged ones: it reads what is right and ends
with one message for the rest.

Damage is drawn from a number that hypothesis chooses, always the same ones. Below are the inputs that got
through before, or ended with a traceback, each with its right answer.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from fuzz_data_files import DATA_READERS, extractor, hugging_face
from fuzz_run_files import RUN_READERS, STEP, forged_checkpoint
from fuzzing import Reader, attempt
from hypothesis import given, settings
from hypothesis import strategies as st
from text_shards import build_shards

from data_tools.bad_records import BadRecord
from data_tools.clean.report import read_report
from data_tools.images.records import ImageColumns, read_pictures
from data_tools.images.sources import ImageFile
from data_tools.partition import make_partitions
from data_tools.records import ReadOptions, read_documents
from data_tools.sources import InputFile
from data_tools.typed import natural
from data_tools.verify import verify as verify_shards
from evals.result import Result
from pretrain.checkpoint import open_checkpoint, verify
from pretrain.checkpoint.tensors import TensorFile, write_tensors
from pretrain.config.sections import ChatDataConfig
from pretrain.errors import IntegrityError, UserError
from pretrain.gan.collapse import CollapseHistory
from pretrain.gpt.chat.conversation import read_conversations
from pretrain.gpt.chat.template import ChatTemplate
from pretrain.health.spikes import SpikeHistory
from pretrain.hf.shards import INDEX, TensorFolder
from pretrain.run.folder import RunFolder, read_yaml
from pretrain.run.lock import refusal
from pretrain.run.status import read_status
from pretrain.tracking.journal import decode

EXAMPLES = 40
SLOW_TO_MAKE = {hugging_face, extractor}
READERS = [
    pytest.param(make, id=make.__name__, marks=[pytest.mark.slow] if make in SLOW_TO_MAKE else [])
    for make in (*RUN_READERS, *DATA_READERS)
]


@pytest.mark.parametrize("make", READERS)
def test_damage_ends_in_one_message(make: Callable[[Path], Reader], tmp_path: Path) -> None:
    reader = make(tmp_path / "good")
    reader.read(tmp_path / "good") if not reader.anew else None  # a good folder is read
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**32))
    def damaged(seed: int) -> None:
        seen.add(attempt(reader, tmp_path / "good", tmp_path / "place", random.Random(seed)))

    damaged()
    assert seen, "nothing was tried"


DEEP = b"[" * 100_000


def status(folder: Path, **changes: Any) -> RunFolder:
    tree = {"run": "a", "job": 1, "state": "running", "step": 3, "steps": 9, "started": 1.0, "time": 2.0}
    (folder / "status.json").write_text(json.dumps(tree | changes))
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"step": -1}, "step: Input should be greater than or equal to 0, got -1"),
        ({"step": "3"}, "step: Input should be a valid integer, got '3'"),
        ({"step": True}, "step: Input should be a valid integer, got True"),
        ({"step": 3.0}, "step: Input should be a valid integer, got 3.0"),
        ({"state": "done"}, "state: Input should be 'running', 'finished', 'failed', 'stopped' or 'crashed'"),
        ({"facts": None}, "facts: Input should be an object, got None"),
        ({"time": 1e300}, "time: Input should be less than 253402300800, got 1e+300"),
        ({"added": 1}, "unknown key 'added'"),
    ],
)
def test_a_status_that_is_none(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        read_status(status(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path}/status.json is damaged: {what}")


def test_the_same_file_for_every_reader_of_json_and_yaml(tmp_path: Path) -> None:
    """Nesting without an end, which ended with RecursionError."""
    folder = RunFolder(tmp_path)
    for path in (folder.status, folder.resolved, folder.lock, tmp_path / "report.json", tmp_path / INDEX):
        path.write_bytes(DEEP)
    with pytest.raises(UserError, match=r"status\.json is damaged: it is nested too deeply"):
        read_status(folder)
    with pytest.raises(UserError, match=r"config\.resolved\.yaml is damaged: it is nested too deeply"):
        read_yaml(folder.resolved)
    assert "nobody has said its name" in refusal(folder.lock)
    with pytest.raises(IntegrityError, match=r"report\.json: is not a report"):
        read_report(tmp_path)
    with pytest.raises(IntegrityError, match="is no index of tensors"):
        TensorFolder(tmp_path)
    assert decode(DEEP) is None
    with pytest.raises(ValueError, match="nested too deeply"):
        Result.from_json(DEEP.decode())
    (tmp_path / "chat.jinja").write_text("{{ " + "(" * 50_000)
    with pytest.raises(UserError, match=r"chat\.jinja: is nested too deeply"):
        ChatTemplate.read(tmp_path / "chat.jinja")


@pytest.mark.parametrize(
    "line",
    [
        b'{"step":-1,"loss":1.0}',
        b'{"step":true,"loss":1.0}',
        b'{"step":1,"loss":"high"}',
        b'{"step":1,"loss":null}',
        b'{"step":1,"loss":[1]}',
        b'{"step":1,"time":1e300}',
        b'{"step":1,"time":"NaN"}',
        b'{"step":1,"loss":1' + b"0" * 400 + b"}",
    ],
)
def test_a_line_of_a_journal_that_is_none(line: bytes) -> None:
    assert decode(line) is None


def test_a_lock_that_would_move_the_cursor(tmp_path: Path) -> None:
    lock = {"host": "a\n\x1b[2J", "pid": 7, "started": 1.0, "command": "train\r"}
    (tmp_path / "lock").write_text(json.dumps(lock))
    assert "pid 7 on a \\x1b[2J, started" in refusal(tmp_path / "lock")
    (tmp_path / "lock").write_text(json.dumps({**lock, "started": 1e300}))
    assert "nobody has said its name" in refusal(tmp_path / "lock")


def forged(folder: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A checkpoint one of whose JSON files was changed, and its checksums with it."""
    reader = forged_checkpoint(folder)
    path = folder / STEP / name
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    assert reader.seal is not None
    reader.seal(folder)
    return folder / STEP


@pytest.mark.parametrize("step", [-1, 2, None, "3", [3]])
def test_a_forged_step(tmp_path: Path, step: Any) -> None:
    path = forged(tmp_path / "run", "state.json", lambda tree: tree.update(step=step))
    with pytest.raises(IntegrityError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == f"{path}/state.json: step: is {step!r}, and manifest.json says 3"


@pytest.mark.parametrize("updates", [-1, 1.5, "3", None, True, 1 << 60])
def test_a_forged_count(tmp_path: Path, updates: Any) -> None:
    path = forged(tmp_path / "run", "state.json", lambda tree: tree.update(updates=updates))
    with pytest.raises(IntegrityError) as caught:
        open_checkpoint(path).part("updates", natural)
    told = f"{path}/state.json: updates: must be a whole number from 0 on, got {updates!r}"
    assert str(caught.value) == told


MEMORIES: dict[str, tuple[str, Any, str]] = {
    "no losses": ("losses", None, "losses: Input should be a valid array, got None"),
    "a loss of text": ("losses", ["1"], "losses.0: Input should be a valid number, got '1'"),
    "rollbacks": ("rollbacks", -1, "rollbacks: Input should be greater than or equal to 0, got -1"),
    "a range": ("skipped", [{"step": 1, "first": 9, "stop": 8}], "skipped: ranges of samples that overlap"),
    "two ranges": (
        "skipped",
        [{"step": 1, "first": 0, "stop": 8}, {"step": 1, "first": 4, "stop": 12}],
        "skipped: ranges of samples that overlap",
    ),
    "another key": ("added", 1, "unknown key 'added'"),
}


@pytest.mark.parametrize(("key", "value", "what"), MEMORIES.values(), ids=MEMORIES)
def test_a_forged_memory(tmp_path: Path, key: str, value: Any, what: str) -> None:
    path = forged(tmp_path / "run", "state.json", lambda tree: tree["health"].update({key: value}))
    with pytest.raises(IntegrityError) as caught:
        open_checkpoint(path).part("health", SpikeHistory.from_json)
    assert str(caught.value).startswith(f"{path}/state.json: health: {what}")


def test_what_a_state_lacks_is_named(tmp_path: Path) -> None:
    path = forged(tmp_path / "run", "state.json", lambda tree: tree.pop("game"))
    with pytest.raises(IntegrityError, match=r"state\.json: has no game"):
        open_checkpoint(path).part("game", CollapseHistory.from_json)


def test_a_box_of_other_dimensions_in_a_forged_index(tmp_path: Path) -> None:
    def change(tree: Any) -> None:
        tree["tensors"]["m"]["pieces"][0]["offset"] = [0, 0]

    path = forged(tmp_path / "run", "index.json", change)
    assert "a box of offset [0, 0], shape [5] has other dimensions than the tensor, [5]" in str(
        verify(path)[0]
    )


def tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A file of two tensors of 8 bytes with a changed header."""
    path = folder / "a.safetensors"
    write_tensors(path, [("a", torch.ones(2)), ("b", torch.zeros(2))])
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return path


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a hole": (
        lambda header: header["a"].update(shape=[1], data_offsets=[0, 4]),
        "before 'b': bytes .* belong to no tensor",
    ),
    "an overlap": (
        lambda header: header["b"].update(shape=[3], data_offsets=[4, 16]),
        "before 'b': bytes .* belong to two tensors",
    ),
    "one tensor twice": (lambda header: header["a"].update(data_offsets=[8, 16]), "before 'a': bytes .* no"),
    "a text for a number": (lambda header: header["a"].update(shape=["2"]), "must be a whole number"),
    "a fraction": (lambda header: header["a"].update(data_offsets=[0, 8.0]), "must be a whole number"),
    "two minus signs": (lambda header: header["a"].update(shape=[-1, -2]), "must be a whole number"),
    "an empty tensor of no size": (
        lambda header: header.update(
            c={"dtype": "F32", "shape": [0, 1 << 50, 1 << 50], "data_offsets": [0, 0]}
        ),
        "do not fit shape",
    ),
    "a dtype that is none": (lambda header: header["a"].update(dtype=["F32"]), "header of the safetensors"),
}


@pytest.mark.parametrize(("change", "what"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_does_not_cover_its_file(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    path = tensors(tmp_path, change)
    with pytest.raises(IntegrityError, match=what) as caught:
        TensorFile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("file", [5, None, ["a"], "../a", "a\0b", ""])
def test_a_weight_map_names_files_of_its_folder(tmp_path: Path, file: Any) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(IntegrityError, match="which is no file of the folder"):
        TensorFolder(tmp_path)


def varint(number: int) -> bytes:
    """As Thrift's compact protocol writes a positive number."""
    number *= 2
    parts = []
    while True:
        parts.append(number & 127 | (128 if number >> 7 else 0))
        if not (number := number >> 7):
            return bytes(parts)


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_parquet_file_that_counts_rows_which_it_lacks(tmp_path: Path, kind: str) -> None:
    """1,234 rows, and a footer that says a billion: pyarrow reads what there is, without a word."""
    path = tmp_path / "a.parquet"
    rows = {"text": ["a"] * 1234} if kind == "texts" else {"image": [b"a"] * 1234}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8].replace(varint(1234), varint(10**9))
    path.write_bytes(data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + data[-4:])
    assert pyarrow.parquet.ParquetFile(path).metadata.num_rows == 10**9
    if kind == "texts":
        file = InputFile(str(path), len(data), "parquet", None, "")
        found: list[Any] = list(read_documents(make_partitions((file,), "file")[0].units[0], ReadOptions()))
    else:
        picture = ImageFile(str(path), len(data), "parquet", None, "", None)
        unit = make_partitions((picture,), "file")[0].units[0]
        found = list(read_pictures(unit, ImageColumns("image", None)))
    what = "the file has 1,234 rows up to here, and counts 1,000,000,000: it is damaged"
    assert len(found) == 1235 and found[-1] == BadRecord(str(path), "row 1235", what)


def test_a_bad_record_is_one_line() -> None:
    assert BadRecord("a", "", "no thrift:\n Invalid data\n").reason == "no thrift: Invalid data"


def test_a_message_moves_no_cursor() -> None:
    assert str(UserError("a\x1b[2J\ud800 é\nb")) == "a\\x1b[2J\\ud800 é\nb"


def test_a_role_of_two_lines_is_told_in_one(tmp_path: Path) -> None:
    row = {"messages": [{"role": "us\ner", "content": "a"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    data = ChatDataConfig.model_validate({"train": "x", "messages": "messages"})
    with pytest.raises(UserError, match=r"got 'us\\ner'") as caught:
        read_conversations(str(tmp_path / "a.jsonl"), data)
    assert "\n" not in str(caught.value)


def test_a_damaged_npy_header_is_a_fault_of_its_shard(tmp_path: Path) -> None:
    """numpy reads it as tokens of Python, whose errors are of other kinds."""
    shards = build_shards(tmp_path / "shards", ["some words"] * 6)
    path = shards / "000000-000.tar"
    path.write_bytes(path.read_bytes().replace(b", }", b", ("))
    faults = verify_shards(str(shards)).faults
    assert any("000000-000.tar: block" in fault and "has a damaged header" in fault for fault in faults)
