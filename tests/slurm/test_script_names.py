"""Names of folders in scripts: as they are on the disk, or refused before anything is printed or sent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from config_files import REPOSITORY, write_config
from text_shards import build_shards

LATIN = os.fsdecode(b"caf\xe9")
"""As a system wrote it that is not UTF-8."""
ODD = "-x;&| [1]*{b}100%j#?q'u\"o`te,:"
STAND_IN = r"""#!/bin/bash
# Stands in for srun: notes its words, one a line, and runs what asks for one answer on this node.
printf '%s\n' "$@" >> "$NOTES"
exit 0
"""


def submit(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pretrain", "submit", "config.yaml", "--dry-run", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a config, and commands of Slurm that only note what they are told."""
    shards = build_shards(tmp_path / "shards", ["0 1 2 3 " * 50] * 3)
    write_config(
        tmp_path / "config.yaml",
        data__train=str(shards),
        tracking__enabled=False,
        checkpoint__every=10,
        slurm__preflight=False,
        slurm__python=sys.executable,
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "scontrol"):
        (programs / name).write_text(STAND_IN if name == "srun" else "#!/bin/bash\necho localhost\n")
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", [ODD, LATIN])
def test_a_printed_script_names_the_folder_as_it_is(place: Path, name: str) -> None:
    """Run by bash, it makes its notes in the run folder, and srun is told of it byte for byte."""
    run = place / name
    quoted = "'" + str(run).replace("'", "''") + "'"
    done = submit(place, f"run.dir={quoted}")
    assert done.returncode == 0, done.stderr
    assert b"#SBATCH --output=" in done.stdout
    (run / "slurm" / "NNNN").mkdir(parents=True)
    (run / "slurm" / "NNNN" / "config.yaml").write_text("slurm: {max_restarts: 3}\n")
    script = place / "job.sh"
    script.write_bytes(done.stdout)
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "NOTES": str(place / "notes"),
        "PYTHONPATH": str(REPOSITORY),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost",
    }
    ran = subprocess.run(["bash", str(script)], env=environment, capture_output=True, check=False, cwd=place)
    told = (place / "notes").read_bytes().splitlines()
    assert os.fsencode(run / "slurm" / "NNNN" / "config.yaml") in told, ran.stderr
    assert (run / "slurm" / "NNNN" / "attempts.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\nb", r"sbatch takes no path with '\n' in it"),
        ("a\tb", r"sbatch takes no path with '\t' in it"),
        ("a\\b", "sbatch writes no log under a path with a backslash in it"),
    ],
)
def test_a_folder_that_sbatch_cannot_take_is_refused_at_once(place: Path, name: str, reason: str) -> None:
    double = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    done = submit(place, f'run.dir="{place}/{double}"')
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"run.dir: {reason}" in done.stderr.decode()


def test_a_working_directory_that_sbatch_cannot_take_is_refused_at_once(place: Path) -> None:
    folder = place / "a\nb"
    folder.mkdir()
    (place / "config.yaml").rename(folder / "config.yaml")
    done = submit(folder, f"run.dir={place}/run")
    assert (done.returncode, done.stdout) == (2, b"")
    assert r"sbatch takes no path with '\n' in it" in done.stderr.decode()


def test_the_next_checkpoint_is_told_as_it_is_on_the_disk(tmp_path: Path) -> None:
    checkpoint = tmp_path / LATIN / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    command = [sys.executable, "-m", "slurm.checkpoints", str(tmp_path / LATIN), str(tmp_path)]
    # as where the locale is not C, in which Python would print such bytes
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout == os.fsencode(checkpoint) + b"\n"
