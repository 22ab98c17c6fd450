"""What DeepSpeed's ZeRO leaves on a rank and sends, stage by stage.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5, in
the partitions and buffers that the tested version of DeepSpeed makes for the trainer's settings; a test
compares them with real ranks.
"""

from dataclasses import dataclass

from pretrain.gan.settings import bucket_size
from pretrain.plan.gan_trace import NetworkCost

WIDE = 4
"""Bytes of an fp32 number: masters, moments and reduced gradients, whatever the weights are."""
ALIGNMENT = 2
"""Elements to whose multiple DeepSpeed rounds each rank's share at stages 1 and 2."""


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
    """Both moments, counters, and fp32 masters where they are apart from the weights; in the host's memory
    if offloaded."""
    average: int
    """G's moving average, fp32, sharded as the masters."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average


@dataclass(frozen=True)
class Sharding:
    """How one network lies on the ranks."""

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
        """What rank 0 holds: stage 1 divides optimizer states by the ranks, 2 gradients, 3 weights too."""
        numbers = 2 if self.stage == 0 else 3  # moments; masters too
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
        """Bytes that the reduction of an update takes at most, beside autograd's own gradients: sums over
        micro-batches, flat copies and buckets; as measured."""
        whole = WIDE * self.count
        if self.stage == 0:
            return whole if self.ranks > 1 or micro_batches > 1 else 0
        return whole * {1: 1 if self.bf16 else 2, 2: 3, 3: 1}[self.stage]

    def gathered(self) -> int:
        """Bytes of weights that a pass brings together for its time."""
        return self.narrow * self.count if self.stage == 3 and self.ranks > 1 else 0

    def sent(self, micro_batches: int, passes: int, *, spectral: bool = False) -> float:
        """Bytes that a rank sends for one update: rings, so (n - 1) / n of a tensor, twice for an all-reduce.

        Args:
            micro_batches: of the update. Stages 2 and 3 reduce each, as no rank keeps all gradients till
                the last.
            passes: of the network in each micro-batch, for which stage 3 gathers the weights.
            spectral: whether spectral normalisation brings the masters together, which stage 3 makes it do.
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
