"""torchrun starts killed ranks again, on two machines (two agents here): the run goes on by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_input_commands import write_run
from mlflow_server import free_port

from pretrain.run.folder import RunFolder
from pretrain.tracking.journal import read

pytestmark = pytest.mark.slow
STEPS = 120
LIMIT = 900.0
STATIC = "--node-rank={node} --master-addr=127.0.0.1 --master-port={port}"
C10D = "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=job"


def agent(command: list[str], options: str, log: Path) -> "subprocess.Popen[bytes]":
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    with open(log, "wb") as output:
        return subprocess.Popen(
            [*torchrun, "--max-restarts=2", *options.split(), *command],
            stdout=output,
            stderr=output,
        )


def end_all(agents: list["subprocess.Popen[bytes]"]) -> None:
    """Agents that are told to stop take their ranks along."""
    for each in agents:
        each.terminate()
    for each in agents:
        each.wait()


def pid_of(folder: RunFolder, rank: int) -> int:
    return int(json.loads((folder.heartbeat / f"rank-{rank:04d}.json").read_text())["pid"])


@pytest.mark.parametrize("rendezvous", [STATIC, C10D])
def test_a_killed_rank_comes_back_and_resumes(good_shards: Path, tmp_path: Path, rendezvous: str) -> None:
    """Under c10d the other rank cannot notice, so its agent starts it again without counting that."""
    config = write_run(tmp_path, good_shards, run__steps=STEPS, checkpoint__every=5)
    folder, port = RunFolder(tmp_path / "run"), free_port()
    command = ["--no-python", sys.executable, "-m", "pretrain", "train", str(config)]
    logs = [tmp_path / f"agent-{node}.log" for node in range(2)]
    agents = [agent(command, rendezvous.format(node=node, port=port), logs[node]) for node in range(2)]
    try:
        deadline = time.monotonic() + LIMIT
        while not (folder.checkpoints / "step-00000005").exists():
            assert time.monotonic() < deadline and agents[0].poll() is None, logs[0].read_text()
            time.sleep(0.01)
        if rendezvous == C10D:
            os.kill(pid_of(folder, 0), signal.SIGSTOP)
        os.kill(pid_of(folder, 1), signal.SIGKILL)
        codes = [each.wait(deadline - time.monotonic()) for each in agents]
    finally:
        end_all(agents)
    said = logs[0].read_text()
    assert codes == [0, 0], said
    assert "resumed from" in said
    assert [line["step"] for line in read(folder.metrics) if "loss" in line] == list(range(1, STEPS + 1))


DIES_BEFORE_IT_MEETS = """
import os, signal, sys
from pathlib import Path
from pretrain.distributed.world import init_distributed
from pretrain.run.exit import run_and_exit

own = Path(sys.argv[1], os.environ["RANK"])
again = own.exists()
own.touch()

def main():
    if os.environ["RANK"] == "1" and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    with init_distributed() as world:
        os.write(1, f"rank {world.rank} {'again' if again else 'at first'}\\n".encode())

run_and_exit(main)
"""


def test_a_rank_that_dies_before_it_meets_the_others(tmp_path: Path) -> None:
    """They go on waiting, for the one that is started in its place."""
    (tmp_path / "rank.py").write_text(DIES_BEFORE_IT_MEETS)
    port, logs = free_port(), [tmp_path / f"agent-{node}.log" for node in range(2)]
    command = [str(tmp_path / "rank.py"), str(tmp_path)]
    agents = [agent(command, STATIC.format(node=node, port=port), logs[node]) for node in range(2)]
    try:
        codes = [each.wait(LIMIT) for each in agents]
    finally:
        end_all(agents)
    assert codes == [0, 0], logs[0].read_text()
    assert "rank 0 at first" in logs[0].read_text()
    assert "rank 1 again" in logs[1].read_text()
