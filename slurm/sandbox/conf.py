"""slurm.conf of a sandbox: short waits, two partitions, one of which preempts the other, no accounting."""

import socket
from dataclasses import dataclass
from pathlib import Path

MEMORY_MB = 100_000
"""Memory that each node claims to have; nothing enforces it."""


@dataclass(frozen=True)
class Shape:
    """Size of a sandbox."""

    nodes: int = 2
    cpus: int = 8
    """Per node, whatever the machine has."""
    gpus: int = 8
    """Per node, in name only: a job that asks for them is scheduled, and finds none."""


def free_ports(count: int) -> list[int]:
    """Free TCP ports on loopback."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def node_names(shape: Shape) -> list[str]:
    return [f"n{number}" for number in range(1, shape.nodes + 1)]


def slurm_conf(folder: Path, shape: Shape, ports: list[int]) -> str:
    """The text of slurm.conf.

    Args:
        folder: state folder of the sandbox.
        ports: one for slurmctld and one for each node. Job ids start from the first port too: ranks use a
            rendezvous port that follows from the job's id, and those of two sandboxes on one machine must
            differ.
    """
    nodes = "".join(
        f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs={shape.cpus} RealMemory={MEMORY_MB} "
        f"Gres=gpu:{shape.gpus} State=UNKNOWN\n"
        for name, port in zip(node_names(shape), ports[1:], strict=True)
    )
    return f"""\
ClusterName=sandbox
SlurmctldHost={socket.gethostname().partition(".")[0]}(127.0.0.1)
SlurmctldPort={ports[0]}
FirstJobId={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.slurm-pid
SlurmdPidFile={folder}/run/%n.slurm-pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=10000,bf_interval=1,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=0
ReturnToService=1
SlurmdTimeout=6
SlurmctldTimeout=10
InactiveLimit=0
KillWait=8
MinJobAge=3600
OverTimeLimit=0
GresTypes=gpu
{nodes}PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""


def gpu_files(folder: Path, shape: Shape) -> list[Path]:
    """Stand-ins for the device files of a node's GPUs: slurmd counts them and never opens one."""
    return [folder / "devices" / f"gpu{number}" for number in range(shape.gpus)]


def gres_conf(folder: Path, shape: Shape) -> str:
    files = gpu_files(folder, shape)
    return "".join(f"NodeName={name} Name=gpu File={file}\n" for name in node_names(shape) for file in files)
