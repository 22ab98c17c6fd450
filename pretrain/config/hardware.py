"""The accelerators that a plan can be made for, from their makers' data sheets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pretrain.config.schema import nearest_name
from pretrain.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One accelerator in a node of `per_node`. Rates are per second and in one direction."""

    memory: float
    """Bytes; a GB of the data sheet taken as 10^9."""
    peak: float
    """Dense bf16 FLOP/s of the tensor cores."""
    peak_fp32: float
    """FLOP/s in fp32 without TF32, which torch leaves off."""
    bandwidth: float
    """Bytes/s of its memory."""
    link: float
    """Bytes/s to the other accelerators of its node."""
    network: float
    """Bytes/s to other nodes, its share of the node's adapters."""
    per_node: int
    matmul: float
    """Share of the peak that large matrix multiplications reach; an assumption."""
    attention: float
    """Share of the peak that fused attention reaches; an assumption."""
    source: str


_A100 = Gpu(40e9, 312e12, 19.5e12, 1.555e12, 300e9, 25e9, 8, 0.80, 0.55, "NVIDIA A100 data sheet; DGX A100")
_H100 = Gpu(80e9, 989e12, 67e12, 3.35e12, 450e9, 50e9, 8, 0.65, 0.45, "NVIDIA H100 data sheet; DGX H100")
_B200 = Gpu(180e9, 2250e12, 75e12, 8e12, 900e9, 50e9, 8, 0.65, 0.40, "NVIDIA DGX B200 data sheet")
_CPU = Gpu(8e9, 1e11, 1e11, 2e10, 5e9, 1e9, 8, 0.80, 0.50, "no data sheet: one core of a laptop, assumed")
_H200_SOURCE = "NVIDIA H200 data sheet; DGX H200"
GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "a100-40g": _A100,
        "a100-80g": replace(_A100, memory=80e9, bandwidth=2.039e12),
        "h100-80g": _H100,
        "h200-141g": replace(_H100, memory=141e9, bandwidth=4.8e12, matmul=0.70, source=_H200_SOURCE),
        "b200-180g": _B200,
        "cpu": _CPU,
    }
)
"""Names for `--gpu`."""

RESERVE = 3e9
"""Bytes of each card that a plan leaves for CUDA's context, NCCL and the allocator's gaps; an assumption."""
KERNEL_SECONDS = 6e-6
"""The least time that an operation takes when Python launches it; an assumption."""
STREAM = 0.8
"""Share of a memory's or a link's bandwidth that long transfers reach; an assumption."""
SPREAD = 0.2
"""By how much the time of a step may differ either way from the estimate; an assumption that all but one
of the published figures in docs/planning.md bear out."""


@dataclass(frozen=True)
class Cluster:
    """`size` accelerators of one kind."""

    name: str
    gpu: Gpu
    size: int
    per_node: int
    network: float
    """Bytes/s that one accelerator has to other nodes."""

    @property
    def usable(self) -> float:
        """Bytes of a card that a plan may fill."""
        return self.gpu.memory - (0 if self.name == "cpu" else RESERVE)

    @property
    def nodes(self) -> int:
        """Nodes; the last one may not be full."""
        return -(-self.size // self.per_node)

    def peak(self, precision: str) -> float:
        """FLOP/s of one card in a run's precision."""
        return self.gpu.peak if precision == "bf16" else self.gpu.peak_fp32

    def crosses(self, span: int) -> bool:
        """Whether a group whose ranks lie within `span` consecutive ones needs the network."""
        return span > self.per_node

    def rate(self, span: int) -> float:
        """Bytes/s of a group within `span` consecutive ranks."""
        return STREAM * (self.network if self.crosses(span) else self.gpu.link)


def make_cluster(
    name: str, gpus: int | None, nodes: int | None, per_node: int | None, network_gbit: float | None
) -> Cluster:
    """The cluster that a command line describes.

    Args:
        name: in `GPUS`.
        gpus: all accelerators; None: `nodes` full nodes, or one node.
        nodes: may be left out.
        per_node: None: as in the vendor's own machines.
        network_gbit: Gbit/s of each accelerator's share of the network; None: as in the vendor's machines.

    Raises:
        UserError: an unknown name, or numbers that contradict one another.
    """
    if name not in GPUS:
        meant = nearest_name(name, GPUS)
        hint = f"did you mean '{meant}'? " if meant else ""
        raise UserError(f"--gpu {name}: not in the table; {hint}known are {', '.join(GPUS)}")
    gpu = GPUS[name]
    if gpus is None:
        per_node = per_node or gpu.per_node
        gpus = (nodes or 1) * per_node
    elif nodes is not None and per_node is None:
        if gpus % nodes:
            raise UserError(
                f"--gpus {gpus}: does not divide among --nodes {nodes}; give a multiple of {nodes}"
            )
        per_node = gpus // nodes
    per_node = per_node or min(gpus, gpu.per_node)
    if nodes is not None and nodes * per_node != gpus:
        raise UserError(f"--gpus {gpus}: {nodes} nodes of {per_node} have {nodes * per_node}")
    if network_gbit is not None and gpus <= per_node:
        raise UserError(
            f"--network has no effect on one node of {per_node}, where nothing crosses nodes; remove it, or "
            "give --nodes or more --gpus"
        )
    network = gpu.network if network_gbit is None else network_gbit * 1e9 / 8
    return Cluster(name, gpu, gpus, per_node, network)
