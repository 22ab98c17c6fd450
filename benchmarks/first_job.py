"""From nothing to the first job done in the sandbox: seconds of each command that docs/slurm.md begins with.

    python benchmarks/first_job.py [--quick]

A real Slurm of two nodes on this machine, so it needs root. Debian's packages are installed where they are
missing; the result says whether they were.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measure import ROOT, Report, Table, main, timed

from slurm.sandbox.packages import missing_packages

PRETRAIN = (sys.executable, "-m", "pretrain")
SANDBOX = (sys.executable, "-m", "slurm.sandbox")
LOOK_SECONDS = 0.1


def call(*command: str) -> str:
    """Run a command in the repository; returns what it printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def config(folder: Path) -> Path:
    """configs/gpt/tiny.yaml, on the shards of this folder."""
    path = folder / "first.yaml"
    tree = yaml.safe_load((ROOT / "configs" / "gpt" / "tiny.yaml").read_text())
    tree["run"]["dir"] = str(folder / "run")
    tree["data"]["train"] = str(folder / "shards")
    path.write_text(yaml.safe_dump(tree))
    return path


def job(folder: Path) -> float:
    """Seconds until the job that was submitted has ended."""
    began = time.perf_counter()
    while call("squeue", "--noheader"):
        time.sleep(LOOK_SECONDS)
    log = "".join(path.read_text() for path in folder.glob("run/slurm/0001/job-*.log"))
    if "pretrain job: finished" not in log:
        sys.exit(f"the job did not finish:\n{log}")
    return time.perf_counter() - began


def measure(_quick: bool) -> Report:
    """Each command once, in the order of the page."""
    missing = missing_packages()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandbox, tokenizer, cluster = folder / "sandbox", folder / "tokenizer", "configs/cluster/sandbox.yaml"
        os.environ["SLURM_CONF"] = str(sandbox / "slurm.conf")
        data = ("--input", str(ROOT / "README.md"), "--input-format", "txt", "--tokenizer", str(tokenizer))
        commands = {
            "sandbox up": (*SANDBOX, "up", "--install", "--dir", str(sandbox)),
            "tokenizer": (*PRETRAIN, "data", "tokenizer", "--model-type", "byte", "--output", str(tokenizer)),
            "shards": (*PRETRAIN, "data", "build", *data, "--output", str(folder / "shards")),
            "submit": (*PRETRAIN, "submit", str(config(folder)), "--cluster", cluster),
        }
        try:
            seconds = {what: timed(lambda: call(*command)) for what, command in commands.items()}  # noqa: B023
            seconds["job of 20 steps, preflight first"] = job(folder)
        finally:
            call(*SANDBOX, "down", "--dir", str(sandbox))
    seconds["all"] = sum(seconds.values())
    rows = [(what, f"{value:.1f}") for what, value in seconds.items()]
    installed = f"Installed: {', '.join(missing)}." if missing else "Debian's packages were there."
    question = (
        f"{installed} A GPT of configs/gpt/tiny.yaml on two nodes with a process each; each command once."
    )
    return Report("first_job", question, [Table(("what", "seconds"), rows)])


if __name__ == "__main__":
    main(measure, __doc__)
