"""Which rank a process is, by its launcher's variables, and where ranks meet in an image without Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from config_files import REPOSITORY, write_config
from mlflow_server import free_port

from pretrain.distributed.launcher import RankInfo, ranks_to_start, read_rank_info
from pretrain.distributed.secret import new_secret
from pretrain.distributed.world import rendezvous
from pretrain.errors import UserError

INTERACTIVE = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "4294967290",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
"""What the shell of `salloc` sees in an allocation of two nodes, or that of `srun --pty bash` in one."""


def test_a_step_of_one_task_is_alone_and_starts_ranks() -> None:
    place = read_rank_info(INTERACTIVE)
    assert place == RankInfo(0, 1, 0, "alone")
    assert [ranks_to_start(place, asked) for asked in (None, 1, 4)] == [1, 1, 4]


def test_a_rank_of_several_starts_none() -> None:
    of_four = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    place = read_rank_info({**INTERACTIVE, **of_four})
    assert place == RankInfo(3, 4, 1, "srun")
    assert [ranks_to_start(place, asked) for asked in (None, 4)] == [1, 1]
    with pytest.raises(UserError, match=r"^--processes 2: srun has started 4 ranks already$"):
        ranks_to_start(place, 2)
    with pytest.raises(UserError, match=r"^--processes 2: torchrun has started 1 rank already$"):
        ranks_to_start(RankInfo(0, 1, 0, "torchrun"), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", "CONFIG", "--processes", "2"), "data/nowhere"),
        (("eval", "RUN", "--processes", "2"), "RUN: does not exist"),
        (("generate", "RUN", "--prompt", "a", "--processes", "2"), "RUN: does not exist"),
        (("parity", "CONFIG"), "data/nowhere"),
    ],
)
def test_commands_in_an_interactive_step(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    """They come to what is wrong with their input."""
    config = write_config(
        tmp_path / "config.yaml", run__dir=str(tmp_path / "run"), data__train=str(tmp_path / "data/nowhere")
    )
    names = {"CONFIG": config, "RUN": str(tmp_path / "RUN")}
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", *(names.get(word, word) for word in command)],
        cwd=REPOSITORY,
        env={**os.environ, **INTERACTIVE},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without Slurm's commands, in a step of two nodes."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    monkeypatch.setenv("PRETRAIN_SECRET", new_secret())
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what `rendezvous` sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("image")
def test_ranks_that_are_told_where_to_meet_ask_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    rendezvous(RankInfo(0, 1, 0, "srun"), 30).part(0)
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.usefixtures("image")
def test_ranks_that_nobody_told_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no scontrol here .* the first of n\[1-2\]: set MASTER_ADDR"):
        rendezvous(RankInfo(0, 2, 0, "srun"), 30)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")  # a name alone needs no scontrol
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    rendezvous(RankInfo(0, 1, 0, "srun"), 30).part(0)
    assert os.environ["MASTER_ADDR"] == "localhost"
