"""One rank of the preflight: `python -m slurm.preflight SUBMISSION`, started by srun as training will be.

Each rank checks its node, multiplies matrices and writes down what it found. Once all have reported that
nothing is wrong, they join a rendezvous and all-reduce a vector. A rank that fails or hangs is identified by
what it has, or has not, written (`slurm.findings`).
"""

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from data_tools.atomic import write_atomically
from pretrain.distributed.launcher import RankInfo, read_rank_info
from pretrain.distributed.world import choose_device, rendezvous
from pretrain.errors import UserError, machine_error
from pretrain.run.exit import print_error
from pretrain.run.limits import open_files_wanted, raise_open_files
from pretrain.tracking.facts import environment_facts
from slurm.findings import RankFinding, new_findings, write_finding
from slurm.submission import Submission

RENDEZVOUS_TIMEOUT = timedelta(seconds=120)
GRACE_SECONDS = 3.0
"""How long a rank that knows of a failure waits for ranks that have not reported yet."""
SMALLEST_DISK = 1 << 30
"""Bytes of temporary space without which no job should start."""
MATMUL = {"cpu": 512, "cuda": 8192}
VECTOR = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Size of the all-reduced vector in bytes."""
VERDICT, GO, NO = "verdict", "go\n", "no\n"
LOOK_SECONDS, LOOKS_PER_SECOND = 0.2, 1000
"""How often a rank looks for the verdict, and all ranks together do at most."""
CODE = ("data_tools", "pretrain", "evals", "slurm")


def check_node(finding: RankFinding, device: torch.device, gpus: int | None, size: int) -> RankFinding:
    """Run the checks that a rank can do on its own. `size`: ranks of the job."""
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        name, count = torch.cuda.get_device_name(device), torch.cuda.device_count()
    else:
        free, name, count = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "cpu", 0
    facts = environment_facts().items()
    versions = {name: value for name, value in facts if name == "python" or name.startswith("version.")}
    seen = replace(
        finding,
        device=name,
        devices=count,
        free_bytes=free,
        disk_bytes=disk,
        versions=versions | {"code": code_fingerprint()},
    )
    if gpus is not None and count not in (1, gpus):
        return replace(seen, error=f"{count} GPUs are visible, the job asked for {gpus}")
    if (files := raise_open_files()) < (wanted := open_files_wanted(size)):
        return replace(seen, error=f"{files} open files are allowed (ulimit -Hn), {wanted} are needed")
    if disk < SMALLEST_DISK:
        return replace(seen, error=f"{disk / 2**20:,.0f} MiB are free in {tempfile.gettempdir()}")
    return replace(seen, matmul_seconds=_matmul(device))


def all_are_well(folder: Path, rank: int, size: int) -> bool:
    """Wait until every rank has reported; returns whether none has found anything wrong.

    Rank 0 reads each report once and writes a verdict for the others, so a job of N ranks reads N reports,
    and not N^2.
    """
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    verdict, read = folder / VERDICT, dict[str, RankFinding]()
    while time.monotonic() < deadline:
        if rank == 0:
            read |= dict(new_findings(folder, read))
            bad = any(each.error for each in read.values())
            if bad or len(read) == size:
                write_atomically(verdict, GO if not bad else NO)
        with suppress(OSError):
            if verdict.read_text() == GO:
                return True
            time.sleep(GRACE_SECONDS)  # others may be about to report
            return False
        time.sleep(max(LOOK_SECONDS, size / LOOKS_PER_SECOND))
    return False


def all_reduce_once(finding: RankFinding, device: torch.device, rank_info: RankInfo) -> RankFinding:
    """Join the rendezvous of all ranks, read the clock, and all-reduce a vector."""
    joined = rendezvous(rank_info, RENDEZVOUS_TIMEOUT.total_seconds())
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=joined.store,
        rank=rank_info.rank,
        world_size=rank_info.size,
        timeout=RENDEZVOUS_TIMEOUT,
    )
    dist.barrier()
    measured = replace(finding, clock=time.time())
    vector = torch.ones(VECTOR[device.type] // 4, device=device)
    dist.all_reduce(vector)  # sets up the connections; only the second one is timed
    vector.fill_(1)
    _wait_for(device)
    began = time.perf_counter()
    dist.all_reduce(vector)
    _wait_for(device)
    seconds = time.perf_counter() - began
    size = dist.get_world_size()
    wrong = not bool((vector == size).all())
    dist.destroy_process_group()
    joined.part(GRACE_SECONDS)
    if size == 1:
        return measured
    rate = VECTOR[device.type] * 2 * (size - 1) / size / seconds
    return replace(measured, bandwidth=rate, error="the all-reduce gave wrong sums" if wrong else None)


def code_fingerprint() -> str:
    """Hash of this project's source files, the same wherever the same code is installed."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in CODE:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _matmul(device: torch.device) -> float:
    """Seconds of one matrix product, after one to warm up."""
    size = MATMUL[device.type]
    matrix = torch.ones(size, size, device=device)
    for _ in range(2):
        _wait_for(device)
        began = time.perf_counter()
        product = matrix @ matrix
        _wait_for(device)
        seconds = time.perf_counter() - began
    if not bool((product == size).all()):
        raise RuntimeError("a matrix product of ones is wrong")
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str]) -> int:
    """Check the node, report, test communication, report again; 0 if all went well."""
    submission = Submission(Path(arguments[0]))
    job, restart = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
    folder = submission.preflight / f"{job}.{restart}"
    rank_info = read_rank_info(os.environ)
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    finding = RankFinding(rank_info.rank, socket.gethostname())
    try:
        device = choose_device(rank_info)
        gpus_asked = int(gpus) if gpus and device.type == "cuda" else None
        finding = check_node(finding, device, gpus_asked, rank_info.size)
        write_finding(folder, finding)
        if not all_are_well(folder, rank_info.rank, rank_info.size):
            return 4
        finding = all_reduce_once(finding, device, rank_info)
    except Exception as error:  # a broken driver, link or disk may raise anything: it becomes the finding
        finding = replace(finding, error=f"{type(error).__name__}: {error}".splitlines()[0])
    try:
        write_finding(folder, finding)
    except OSError as error:
        print_error(f"pretrain: error: {machine_error(error) or error}")
        return UserError.exit_code
    return 0 if finding.error is None else 4


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
