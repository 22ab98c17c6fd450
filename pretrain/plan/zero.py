"""What DeepSpeed's ZeRO keeps on a rank and sends, stage by stage.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5,
with the partitions and buffers that the tested version of DeepSpeed makes for the trainer's settings. A test
compares them with real ranks.
"""

from dataclasses import dataclass

from pretrain.gan.settings import bucket_size
from pretrain.plan.gan_trace import NetworkCost

WIDE = 4
"""Bytes of an fp32 number: masters, moments and reduced gradients, whatever the weights are."""
ALIGNMENT = 2
"""DeepSpeed rounds each rank's share at stages 1 and 2 up to a multiple of so many elements."""


@dataclass(frozen=True)
class NetworkMemory:
    """One network on the rank that holds most of it, in bytes, from step to step."""

    name: str
    parameters: int
    """Elements."""
    stage: int
    weights: int
    """In the precision of the forward pass, with padding, and running statistics."""
    gradients: int
    """Buffers that outlast a step; other gradients come and go with the updates."""
    optimizer: int
    """Both moments, counters, and masters (fp32) if separate from the weights; on the host if offloaded."""
    average: int
    """G's moving average, fp32, sharded as the masters."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average


@dataclass(frozen=True)
class Sharding:
    """How one network is spread over the ranks."""

    network: NetworkCost
    stage: int
    ranks: int
    bf16: bool

    @property
    def count(self) -> int:
        """Elements of the network."""
        return sum(self.network.sizes)

    @property
    def narrow(self) -> int:
        """Bytes of a number in the forward pass."""
        return 2 if self.bf16 else WIDE

    @property
    def owned(self) -> int:
        """Elements that rank 0 updates, with padding: with its optimizer states from stage 1 on."""
        if self.stage == 0:
            return self.count
        if self.stage == 3:  # each tensor is divided
            return sum(-(-size // self.ranks) for size in self.network.sizes)
        return -(-self.count // (ALIGNMENT * self.ranks)) * ALIGNMENT

    @property
    def kept(self) -> int:
        """Elements of weights on every rank between passes: all up to stage 2, with padding."""
        return self.owned * self.ranks if self.stage in (1, 2) else self.owned

    def memory(self, name: str, *, averaged: bool) -> NetworkMemory:
        """What rank 0 keeps. Stage 1 divides optimizer states by the ranks, 2 also gradients, 3 all."""
        numbers = 2 if self.stage == 0 else 3  # two moments, and masters unless they are the weights
        counters = len(self.network.sizes) if self.stage == 0 else 1
        return NetworkMemory(
            name,
            self.count,
            self.stage,
            weights=self.narrow * self.kept + self.network.buffers,
            gradients=self._kept_gradients(),
            optimizer=WIDE * (numbers * self.owned + counters),
            average=WIDE * self.owned if averaged else 0,
        )

    def _kept_gradients(self) -> int:
        if self.stage == 3:  # this rank's part, and the bucket
            return WIDE * (self.owned + bucket_size(self.count))
        return WIDE * self.kept if self.bf16 and self.stage == 1 else 0

    def reducing(self, micro_batches: int) -> int:
        """The most bytes that the reduction of an update takes in addition to autograd's gradients.

        Sums over micro-batches, flat copies and buckets; as measured.
        """
        whole = WIDE * self.count
        if self.stage == 0:
            return whole if self.ranks > 1 or micro_batches > 1 else 0
        return whole * {1: 1 if self.bf16 else 2, 2: 3, 3: 1}[self.stage]

    def gathered(self) -> int:
        """Bytes of weights that are gathered for the duration of a pass."""
        return self.narrow * self.count if self.stage == 3 and self.ranks > 1 else 0

    def sent(self, micro_batches: int, passes: int, *, spectral: bool = False) -> float:
        """Bytes that a rank sends for one update: rings, so (n - 1) / n of a tensor, twice for an all-reduce.

        Args:
            micro_batches: of the update. Stages 2 and 3 reduce each one, as no rank keeps all gradients until
                the last.
            passes: of the network in each micro-batch, for which stage 3 gathers the weights.
            spectral: whether spectral normalisation assembles the masters, which is necessary only at stage
                3.
        """
        reduced = self.kept if self.bf16 and self.stage == 1 else self.count
        rounds = micro_batches if self.stage == 2 else 1
        sent = {
            0: 2 * WIDE * self.count,
            1: 2 * WIDE * reduced + self.narrow * self.kept,
            2: 2 * WIDE * reduced * rounds + self.narrow * self.kept,
            3: (WIDE + passes * self.narrow) * self.owned * self.ranks * micro_batches
            + (2 * WIDE * self.count if spectral else 0),
        }[self.stage]
        return sent * (self.ranks - 1) / self.ranks
