"""The world of ranks that a process joins, and the device that it computes on."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]

from pretrain.cpu import megatron as cpu_backend
from pretrain.cpu.gloo import share_devices
from pretrain.cpu.products.settle import Settled, settled
from pretrain.distributed import objects
from pretrain.distributed.launcher import RankInfo, read_rank_info
from pretrain.distributed.rendezvous import (
    FAILED_PART_SECONDS,
    JOIN_SECONDS,
    PART_SECONDS,
    Rendezvous,
    first_host,
    is_one_machine,
    meet_ranks,
)
from pretrain.errors import StoppedEarly, UserError
from pretrain.run.limits import raise_open_files

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
GPU_ENVIRONMENT = MappingProxyType(
    {
        # Keeps kernels in the order of their launches, on which megatron-core's overlap of communication
        # relies (its `ModelParallelConfig`).
        ("CUDA_DEVICE_MAX_CONNECTIONS",): "1",
        # Sequences and batches that grow would leave memory in pieces of the wrong size.
        ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"): "expandable_segments:True",
    }
)
"""Read by CUDA and torch when a first tensor goes to a GPU: (name, older names), and the value that
is set if the user has set none."""


@dataclass(frozen=True)
class DistContext:
    """A joined world: every rank can communicate with every other."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    store: Store
    """Key-value store of all ranks, for communication that must not be a collective."""
    products: Settled | None = None
    """The methods by which all ranks multiply with weights; None on GPUs."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that prints and writes."""
        return self.rank == 0


def choose_device(place: RankInfo) -> torch.device:
    """One GPU per rank if there are GPUs, else the CPU. Sets the environment that CUDA is to start in.

    Raises UserError: more ranks than GPUs on this machine.
    """
    for names, value in GPU_ENVIRONMENT.items():
        if not any(name in os.environ for name in names):
            os.environ[names[0]] = value
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # srun may show each task only its own GPU.
    index = 0 if count == 1 and place.launcher == "srun" else place.local_rank
    if index >= count:
        raise UserError(
            f"local rank {place.local_rank} has no GPU: this machine shows {count}; start at most {count} "
            "processes, or set CUDA_VISIBLE_DEVICES= (empty) to run on the CPU"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


@contextmanager
def init_distributed(
    place: RankInfo | None = None, patience: float = JOIN_SECONDS, given_up: Callable[[], int] = lambda: 0
) -> Iterator[DistContext]:
    """Join the other ranks, and leave them at the end.

    Args:
        place: rank info of this process; None: from the environment.
        patience: seconds to wait for the other ranks.
        given_up: the signal that cancels this wait, 0 while there is none.

    Yields:
        The joined world. On the CPU collectives go through gloo, on GPUs through NCCL, with gloo beside it
        for tensors on the host.

    Raises:
        UserError, HealthError, StoppedEarly: see `rendezvous.meet_ranks`, and `products.settle.settled`.
    """
    place = place or read_rank_info(os.environ)
    raise_open_files()
    device = choose_device(place)
    cpu_backend.install()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    joined = rendezvous(place, patience, given_up)
    dist.init_process_group(
        backend,
        store=PrefixStore("world", joined.store),
        rank=place.rank,
        world_size=place.size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    patience = PART_SECONDS
    try:
        store = PrefixStore("pretrain", joined.store)
        choosing = settled(place.rank, place.size) if device.type == "cpu" else nullcontext()
        with choosing as products:
            yield DistContext(place.rank, place.size, place.local_rank, device, store, products)
    except Exception as error:
        # Others may have ended without leaving the rendezvous, and this rank's error must not wait for them.
        patience = PART_SECONDS if isinstance(error, StoppedEarly) else FAILED_PART_SECONDS
        raise
    finally:
        forget_layout()
        dist.destroy_process_group()
        joined.part(patience)


def forget_layout() -> None:
    """Destroy groups that libraries keep, or they would take them for those of this process's next world."""
    parallel_state = sys.modules.get("megatron.core.parallel_state")
    # not imported here: it takes seconds to load, and only text trainers use it
    if parallel_state is not None:
        parallel_state.destroy_model_parallel()
    if "deepspeed" in sys.modules:
        sys.modules["deepspeed.comm.comm"].cdb = None  # type: ignore[attr-defined]
        sys.modules["deepspeed.utils.groups"]._WORLD_GROUP = None  # type: ignore[attr-defined]


def rendezvous(place: RankInfo, patience: float, given_up: Callable[[], int] = lambda: 0) -> Rendezvous:
    """Join the other ranks, and prepare for the first process group.

    Args:
        place: rank info of this process.
        patience: seconds to wait for the other ranks.
        given_up: the signal that cancels this wait, 0 while there is none.

    Raises:
        UserError, HealthError, StoppedEarly: see `rendezvous.meet_ranks`.
    """
    objects.install()
    if place.launcher == "alone":
        share_devices(one_machine=True)
        return Rendezvous(place.rank, place.size, HashStore(), None)
    if place.launcher == "srun":
        if "MASTER_ADDR" not in os.environ:  # a container image may have no scontrol
            os.environ["MASTER_ADDR"] = first_host(os.environ)
        # Below Linux's ephemeral ports, which start at 32,768.
        os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 12_000))
        os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.size))
    share_devices(one_machine=bool(is_one_machine(os.environ)))
    return meet_ranks(place.rank, place.size, patience, given_up)
