"""A rendered script, run: ranks in an image that has no Slurm, and sees nothing but what is mounted.

`srun`, `apptainer` and the other programs of a cluster are stand-ins here; the script, the ranks and their
meeting are real. What is not mounted is hidden from a rank by an audit hook.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_files import write_config
from text_shards import build_shards

from slurm.submit import submit_command

SRUN = """
import os, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")]
command = sys.argv[1:][next(n for n, word in enumerate(sys.argv[1:]) if not word.startswith("--")):]
size = next(word.partition("=")[2] for word in options if word.startswith("--ntasks="))
step = dict(SLURM_STEP_ID="0", SLURM_STEP_NUM_TASKS=size, SLURM_STEP_NUM_NODES="2")
step |= dict(SLURM_STEP_NODELIST="n[1-2]", SLURM_LOCALID="0")
ranks = [
    subprocess.Popen(command, env={**os.environ, **step, "SLURM_PROCID": str(rank)})
    for rank in range(int(size))
]
sys.exit(max(rank.wait() for rank in ranks))
"""
SCONTROL = """#!/bin/sh
[ "$2" = hostnames ] && echo localhost && exit
echo "Invalid job id specified" >&2 && exit 1
"""
APPTAINER = """
import os, sys
words, mounts = sys.argv[2:], []
while words[0].startswith("--"):
    if words[0] in ("--bind", "--pwd"):
        mounts += [words[1].partition(":")[0]] if words[0] == "--bind" else []
        words = words[2:]
    else:
        words = words[1:]
for source in mounts:
    os.stat(source)
os.environ.update(PATH=IMAGE, PYTHONPATH=IMAGE, SEEN=os.pathsep.join(mounts))
os.execvp(words[1], words[1:])
"""
HIDE = """
import os, sys
seen = os.environ["SEEN"].split(os.pathsep)
def hide(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith(DISKS) and not any(os.path.commonpath([path, each]) == each for each in seen):
            raise FileNotFoundError(2, "is not mounted", path)
sys.addaudithook(hide)
"""


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster's disks, with the working directory on them; its programs on the PATH, and an image."""
    programs, image, disks = (tmp_path / name for name in ("programs", "image", "disks"))
    for folder in (programs, image, disks / "project"):
        folder.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("apptainer", APPTAINER.replace("IMAGE", repr(str(image))))):
        program(programs / name, f"#!{sys.executable}{text}")
    program(programs / "sbatch", "#!/bin/sh\necho 7\n")
    program(programs / "scontrol", SCONTROL)
    program(image / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (image / "sitecustomize.py").write_text(HIDE.replace("DISKS", repr(f"{disks}/")))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(disks / "project")
    return disks


def run_script(script: Path) -> subprocess.CompletedProcess[str]:
    """As Slurm runs it on the first node."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(script)]
    return subprocess.run(command, env={**os.environ, **job}, capture_output=True, text=True)


@pytest.mark.slow
def test_a_training_and_its_evaluation_in_an_image(cluster: Path) -> None:
    shards = build_shards(cluster / "data/shards", [f"text {number} " * 40 for number in range(40)])
    held_out = build_shards(cluster / "more/shards", [f"other {number} " * 40 for number in range(9)])
    run = cluster / "runs/mine"
    slurm = {"nodes": 2, "container": "apptainer", "container_image": "docker://pretrain"}
    config = write_config(
        Path("config.yaml"),
        run={"dir": str(run), "steps": 1},
        model={"kind": "gpt", "num_layers": 1, "hidden_size": 16, "num_attention_heads": 2},
        batch={"global_size": 2, "micro_size": 1, "sequence_length": 32},
        data={"train": str(shards), "validation": str(held_out)},
        tracking={"enabled": False},
        slurm=slurm | {"preflight": False},
    )
    submit_command(config, (), None, None, dry_run=False)
    done = run_script(run / "slurm/0001/job.sbatch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "pretrain job: finished: all steps are done"
    Path("eval.yaml").write_text(yaml.safe_dump({"evaluation": {"data": [str(held_out)]}, "slurm": slurm}))
    submit_command("eval.yaml", (), None, str(run), dry_run=False)
    done = run_script(run / "slurm/eval-0001/job.sbatch")
    assert done.returncode == 0, done.stdout + done.stderr
    [score] = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert score["step"] == 1
    # The stand-in hides what is not mounted.
    script = Path("without.sbatch")
    whole = (run / "slurm/eval-0001/job.sbatch").read_text()
    script.write_text("".join(line for line in whole.splitlines(True) if f"--bind {held_out}" not in line))
    done = run_script(script)
    assert done.returncode != 0 and f"is not mounted: '{held_out}" in done.stderr, done.stderr
