"""`pretrain doctor`: what this machine has, what is missing, and what that costs.

Versions are compared with the requirements of the installed package. Two processes really exchange a tensor,
because a library that is installed may still be unable to communicate.
"""

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal, TypeAlias

from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_tools import children
from pretrain.errors import UserError
from pretrain.run.limits import CONNECTIONS_PER_RANK, OWN_FILES, raise_open_files
from pretrain.run.memory import available_memory

PACKAGE = "pretrain"
GIB = 2**30
LEAST_PYTHON = (3, 11)
LEAST_SHARED_MEMORY = 256 * 2**20
MANY_RANKS = 1024
"""Ranks of a job that the limit of open files should allow."""
EXCHANGE_SECONDS = 90
SHOWN_PACKAGES = ("torch", "megatron-core", "mlflow", "sentencepiece", "webdataset")

Level: TypeAlias = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the report."""

    what: str
    found: str
    level: Level
    """ok; note: training works, at some cost; bad: training cannot work."""
    cost: str = ""


def doctor_command() -> None:
    """Print the report. Raises UserError (exit code 2) if training cannot work on this machine."""
    console = Console()
    table = Table(
        title=f"pretrain {metadata.version(PACKAGE)} on {socket.gethostname()}", title_justify="left"
    )
    for column in ("", "what", "found", "what it costs"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}
    bad = []
    with console.status("looking around, and letting two processes talk ..."):
        for finding in examine():
            table.add_row(marks[finding.level], *map(escape, (finding.what, finding.found, finding.cost)))
            if finding.level == "bad":
                bad.append(finding)
    console.print(table)
    if bad:
        reasons = "\n".join(f"  {one.what}: {one.found}; {one.cost}" for one in bad)
        raise UserError(f"training cannot work on this machine:\n{reasons}")
    console.print("Training works on this machine.")


def examine() -> Iterator[DoctorFinding]:
    """Every finding, the quick ones first."""
    yield _python()
    yield from packages(metadata.requires(PACKAGE) or ())
    if _importable("torch"):
        yield from _accelerators()
        yield from _backends()
        yield _products()
    if _importable("megatron"):
        yield _optimizers()
    yield from _resources()
    yield _compiler()
    yield _hostname()
    yield _slurm()
    if _importable("torch"):
        yield _exchange()


def _python() -> DoctorFinding:
    version = platform.python_version()
    least = ".".join(map(str, LEAST_PYTHON))
    if sys.version_info < LEAST_PYTHON:
        return DoctorFinding("Python", version, "bad", f"Python {least} or newer is needed")
    return DoctorFinding("Python", f"{version} on {platform.system()} {platform.machine()}", "ok")


def packages(requirements: Iterable[str]) -> Iterator[DoctorFinding]:
    """The most important packages, and every other one that is missing or of a wrong version."""
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield DoctorFinding(requirement.name, "missing", "bad", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            needed = f"{requirement.specifier} is needed: pip install '{requirement}'"
            yield DoctorFinding(requirement.name, version, "bad", needed)
        elif requirement.name in SHOWN_PACKAGES:
            yield DoctorFinding(requirement.name, version, "ok")


def _importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _accelerators() -> Iterator[DoctorFinding]:
    import torch

    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        )
        yield DoctorFinding(
            "GPU", f"none ({built})", "note", "training runs on the CPU, with gloo between processes"
        )
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found = (
            f"{device.name}, {device.total_memory / GIB:.0f} GiB, capability {device.major}.{device.minor}"
        )
        try:
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            works = float((ones @ ones).sum()) == 64.0**3
            reason = "a product of matrices of ones is wrong"
        except RuntimeError as error:
            works, reason = False, str(error).splitlines()[0]
        yield DoctorFinding(f"GPU {index}", found, "ok" if works else "bad", "" if works else reason)


def _backends() -> Iterator[DoctorFinding]:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        yield DoctorFinding(
            "torch.distributed", "missing", "bad", "this torch was built without it; install another build"
        )
        return
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        if dist.is_nccl_available():
            version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            yield DoctorFinding("NCCL", ".".join(map(str, version)), "ok")
        else:
            yield DoctorFinding(
                "NCCL", "missing", "bad", "GPUs cannot talk to each other; install a CUDA build of torch"
            )
    elif not dist.is_nccl_available():
        yield DoctorFinding("NCCL", "missing", "note", "no training on several GPUs with this build of torch")
    if not dist.is_gloo_available():
        yield DoctorFinding(
            "gloo", "missing", "bad", "processes cannot talk on the CPU; install another build of torch"
        )


def _products() -> DoctorFinding:
    """Which method multiplies with weights on the CPU, and how its time compares with torch's own."""
    from pretrain.cpu.products.choice import VARIABLE, available_here
    from pretrain.cpu.products.settle import decide
    from pretrain.cpu.products.trial import known_trial

    what, settled = "products on the CPU", decide(available_here())
    if settled.asked:
        return DoctorFinding(what, settled.choice.text, "ok", f"as {VARIABLE} says")
    trial = known_trial()
    name = f"{trial.machine['processor']} (family {trial.machine['family']}, {trial.machine['instructions']})"
    took = f"measured in {trial.took * 1e3:,.0f} ms; of torch's own time {trial.shares()}"
    return DoctorFinding(what, f"{settled.choice.text} on {name}", "ok", took)


def _optimizers() -> DoctorFinding:
    """Which class updates the weights: megatron-core takes the first that it can import."""
    what, ours = "optimizer", "of a GPT or BERT; GANs, CNNs and RNNs have torch's"
    try:
        from megatron.core.optimizer import USING_PYTORCH_OPTIMIZER, Adam
    except Exception as error:  # loading a library of kernels may fail in any way
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return DoctorFinding(what, "none: megatron-core cannot be imported", "bad", reason[:200])
    found = f"{Adam.__module__}.{Adam.__qualname__}, {ours}"
    if not USING_PYTORCH_OPTIMIZER:
        cost = "not in the tested set; losses may differ in the last digits from those with torch's AdamW"
        return DoctorFinding(what, found, "note", cost)
    modules = {"Transformer Engine": "transformer_engine", "Apex": "apex"}
    if present := [name for name, module in modules.items() if _importable(module)]:
        cost = f"{' and '.join(present)} can be found, but not its optimizer: is it installed for this torch?"
        return DoctorFinding(what, found, "note", cost)
    return DoctorFinding(what, found, "ok")


def _resources() -> Iterator[DoctorFinding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cost = "" if cores > 1 else "one core: several processes take turns"
    yield DoctorFinding("CPU cores", str(cores), "ok" if cores > 1 else "note", cost)
    memory = available_memory()
    if memory is not None:
        small = memory < 2 * GIB
        cost = (
            "a process of its own takes about 0.7 GiB before the model; expect to be killed" if small else ""
        )
        yield DoctorFinding("memory available", f"{memory / GIB:.1f} GiB", "note" if small else "ok", cost)
    free = shutil.disk_usage(".").free
    cost = "checkpoints take 12 bytes a parameter, and two are kept by default" if free < 5 * GIB else ""
    yield DoctorFinding("disk free here", f"{free / GIB:.1f} GiB", "note" if cost else "ok", cost)
    if not os.access(".", os.W_OK):
        yield DoctorFinding("working directory", "no permission to write", "note", "give an absolute run.dir")
    files = raise_open_files()
    ranks = (files - OWN_FILES) // CONNECTIONS_PER_RANK
    cost = f"enough for {max(ranks, 0):,} ranks; a larger job needs a higher `ulimit -Hn`"
    yield DoctorFinding("open files", f"{files:,}", "ok" if ranks >= MANY_RANKS else "note", cost)
    if os.path.isdir("/dev/shm"):
        shared = shutil.disk_usage("/dev/shm").total
        tight = shared < LEAST_SHARED_MEMORY
        cost = "NCCL between GPUs of one machine may fail; in docker: --shm-size=1g" if tight else ""
        yield DoctorFinding("/dev/shm", f"{shared / 2**20:,.0f} MiB", "note" if tight else "ok", cost)


def _compiler() -> DoctorFinding:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path:
            return DoctorFinding("C++ compiler", path, "ok")
    return DoctorFinding(
        "C++ compiler", "missing", "note", "no `--dry-run`; packages without a wheel do not install"
    )


def _hostname() -> DoctorFinding:
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, None)[0][4][0]
    except OSError:
        cost = "gloo may not find its address; add the name to /etc/hosts or set GLOO_SOCKET_IFNAME=lo"
        return DoctorFinding("host name", f"{name} does not resolve", "note", cost)
    return DoctorFinding("host name", f"{name} is {address}", "ok")


def _slurm() -> DoctorFinding:
    missing = [name for name in ("sbatch", "srun", "sinfo") if not shutil.which(name)]
    if missing:
        return DoctorFinding(
            "Slurm", f"no {', '.join(missing)}", "note", "no jobs on a cluster from this machine"
        )
    return DoctorFinding("Slurm", str(shutil.which("srun")), "ok")


def _exchange() -> DoctorFinding:
    """Let two processes sum a tensor with gloo, as training on the CPU does."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import sys; from pretrain.commands.doctor import exchange_as_rank; "
            "exchange_as_rank(*sys.argv[1:])"
        )
        ranks = [
            children.start(
                [sys.executable, "-c", code, str(rank), os.path.join(folder, "store")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            outputs = [rank.communicate(timeout=EXCHANGE_SECONDS)[0] for rank in ranks]
        except subprocess.TimeoutExpired:
            cost = "gloo hangs: a firewall on the loopback interface? try GLOO_SOCKET_IFNAME=lo"
            return DoctorFinding("two processes", f"no answer in {EXCHANGE_SECONDS} s", "bad", cost)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    for rank, output in zip(ranks, outputs, strict=True):
        if rank.returncode != 0:
            last = (output.strip().splitlines() or ["no message"])[-1]
            return DoctorFinding("two processes", "cannot exchange a tensor with gloo", "bad", last[:200])
    return DoctorFinding("two processes", "exchanged a tensor with gloo", "ok")


def exchange_as_rank(rank: str, store: str) -> None:
    """Be one of the two processes: sum rank + 1 over both, and fail unless that gives 3."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from pretrain.cpu.gloo import share_devices

    share_devices(one_machine=True)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=EXCHANGE_SECONDS // 2),
    )
    value = torch.full((1024,), float(int(rank) + 1))
    dist.all_reduce(value)
    dist.destroy_process_group()
    if not bool((value == 3).all()):
        raise SystemExit(f"1 + 2 gave {value[0].item()}")
