"""The sandbox itself: up, used, hurt, mended and down, beside another one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import kill_node

from pretrain.errors import UserError
from slurm.quote import for_sbatch
from slurm.sandbox.cluster import Sandbox
from slurm.sandbox.conf import Shape
from slurm.sandbox.processes import with_environment

pytestmark = pytest.mark.slow


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m slurm.sandbox`."""
    return subprocess.run([sys.executable, "-m", "slurm.sandbox", *words], capture_output=True, text=True)


def test_a_second_sandbox_from_up_to_down(sandbox: Sandbox, tmp_path: Path) -> None:
    other = Sandbox(tmp_path / "other")
    try:
        started = command("up", "--dir", str(other.folder), "--nodes", "2")
        assert started.stdout == f"export SLURM_CONF={other.conf}\n", started.stderr
        assert sorted(other.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]
        assert len(sandbox.run("sinfo", "--noheader", "--Node", "--partition=main").splitlines()) == 4
        again = command("up", "--dir", str(other.folder))
        assert (again.returncode, "is up" in again.stderr) == (2, True)
        kill_node(other, "n2")
        assert "n2         ended" in command("status", "--dir", str(other.folder)).stdout
        other.start_node("n2")
        other.run("sbatch", "--nodes=2", "--output=/dev/null", "--wrap=srun sleep 600")
        deadline = time.monotonic() + 60
        while len(other.job_processes()) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        assert command("down", "--dir", str(other.folder)).returncode == 0
    assert not list(with_environment(SLURM_CONF=str(other.conf)))
    assert not other.daemons()
    assert sandbox.daemons().keys() == {"munged", "slurmctld", "n1", "n2", "n3", "n4"}


def test_what_is_no_sandbox_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="holds other things"):
        Sandbox(tmp_path).up(Shape())
    with pytest.raises(UserError, match="there is no sandbox here"):
        Sandbox(tmp_path).down()
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("text", ['a\'b $(id) "c" `d` # e \\', " lead", "#", "%j", "a;b|c>d<e&f*g?h~i!j{k}"])
def test_sbatch_reads_a_quoted_word_as_it_was(sandbox: Sandbox, tmp_path: Path, text: str) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --hold --comment={for_sbatch(text)}\n#SBATCH --output=/dev/null\n"
    )
    job = sandbox.run("sbatch", "--parsable", str(script))
    assert sandbox.run("squeue", "--noheader", f"--jobs={job}", "--format=%k") == text
    sandbox.run("scancel", job)
