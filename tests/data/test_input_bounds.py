"""What a user names as a config or a table is read to a limit, and never waited for."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from config_files import small_config

from pretrain.config.load import load_config
from pretrain.data.table import read_lines, read_table
from pretrain.errors import UserError
from pretrain.plan.text_plan import passes


@pytest.mark.parametrize("command", ["check", "plan", "train", "submit"])
def test_a_pipe_is_no_config(tmp_path: Path, command: str) -> None:
    """Without a writer a pipe is waited for without an end. Five minutes are for a busy machine."""
    os.mkfifo(tmp_path / "a.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", command, str(tmp_path / "a.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"pretrain: error: '{tmp_path}/a.yaml': cannot be read: is a pipe and not a plain file\n"
    )


def test_a_base_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: /dev/zero\n")
    with pytest.raises(UserError, match=r"base: '/dev/zero': cannot be read: is a device"):
        load_config(str(tmp_path / "a.yaml"), [])


@pytest.mark.parametrize(
    ("key", "most"),
    [("model.num_layers", 2_000), ("batch.micro_size", 1_000_000), ("model.hidden_size", 4_194_304)],
)
def test_sizes_have_limits(key: str, most: int) -> None:
    section, name = key.split(".")
    with pytest.raises(ValueError, match=f"less than or equal to {most}"):
        small_config(**{section: {name: 1_000_000_000}})


def test_tables_are_read_line_by_line(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    for text, lines in (("", [""]), ("a", ["a"]), ("a\r\nb\n\n", ["a", "b", "", ""]), ("\n", ["", ""])):
        table.write_bytes(text.encode())
        assert list(read_lines(str(table))) == list(enumerate(lines, 1))
    with open(table, "wb") as file:
        file.write(b"text\tlabel\n")
        file.truncate(1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a\.tsv:2: holds more than 33,554,432 bytes; this is no table"):
        read_table(str(table), ["text"], "label")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    pipe = tmp_path / "b.tsv"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"b\.tsv: cannot be read: is a pipe and not a plain file"):
        read_table(str(pipe), ["text"], "label")


@pytest.mark.parametrize("chunks", [1, 2, 3, 8])
@pytest.mark.parametrize("pipeline", [1, 2, 4, 8])
def test_a_pipeline_repeats_itself_after_four_rounds(pipeline: int, chunks: int) -> None:
    """What is in flight at most, by chunk and by kind of pass, is the same for 4 and for 12 rounds."""

    def seen(micro_batches: int, stage: int) -> set[tuple[object, ...]]:
        in_flight, found = [0] * chunks, set[tuple[object, ...]]()
        for chunk, forward in passes(pipeline, stage, chunks, micro_batches):
            in_flight[chunk] -= not forward
            found.add((chunk, forward, *in_flight))
            in_flight[chunk] += forward
        return found

    for stage in range(pipeline):
        assert seen(4 * pipeline, stage) == seen(12 * pipeline, stage)
